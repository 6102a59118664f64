/*
 * The CUDA runtime without a GPU: streams, events and graphs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Work is done at once, in the order of the calls; but with EMULATED_STREAMS=N
 * only when somebody waits for it, or by chance, and streams that do not wait
 * for each other go on in an order that N chooses. Then a missing event, or
 * memory that is used again too early, changes results. What a captured stream
 * is given is kept for its graph; who looks at results meanwhile, or waits, or
 * copies from or to the host, ends the program.
 */
#include <stdlib.h>
#include <time.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator.h"
#include "faults.h"
#include "streams.h"

/* A recorded event, until the stream gets there. */
struct Mark {
    bool done = false;
    struct timespec time = {};
    CUstream_st *stream = NULL;
};

struct Work {
    std::function<void()> run;
    std::shared_ptr<Mark> after; /* of another stream; or nothing */
    EmulatedContext *context;
};

struct CUstream_st {
    std::deque<Work> works;
    bool busy = false; /* its first work is being done */
    bool captured = false;
    std::vector<std::function<void()>> kept; /* since */
};

struct CUgraph_st {
    std::vector<std::function<void()>> works;
};

struct CUgraphExec_st {
    std::vector<std::function<void()>> works;
};

struct CUevent_st {
    std::shared_ptr<Mark> mark; /* of the last record */
    int asked = 0;
};

static std::recursive_mutex lock;
static CUstream_st legacy; /* the stream NULL */
static std::vector<CUstream_st *> streams = { &legacy };
static std::atomic<uint64_t> seed; /* 0: all is done at once */
static uint64_t state;
static unsigned ahead; /* of 100: how often others go on where one would do */

struct Locked {
    std::lock_guard<std::recursive_mutex> guard;
    Locked() : guard(lock) {}
};

static uint64_t random_below(uint64_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
}

static CUstream_st *stream_of(cudaStream_t stream)
{
    return stream ? stream : &legacy;
}

/* May its first work be done? */
static bool is_ready(const CUstream_st *s)
{
    return !s->works.empty() && !s->busy &&
           (!s->works.front().after || s->works.front().after->done);
}

static void do_first(CUstream_st *s)
{
    /* What it calls may look at the streams, but must not begin this again. */
    Work work = std::move(s->works.front());

    s->busy = true;
    emulator_with_context(work.context, work.run);
    s->busy = false;
    s->works.pop_front();
}

/* Some stream's first work; NULL: none can go on. */
static CUstream_st *any_ready(void)
{
    const size_t from = random_below(streams.size());

    for (size_t i = 0; i < streams.size(); i++) {
        CUstream_st *s = streams[(from + i) % streams.size()];

        if (is_ready(s))
            return s;
    }
    return NULL;
}

static void do_any(void)
{
    CUstream_st *s = any_ready();

    if (s)
        do_first(s);
}

/* What has to be done next for this stream to go on. */
static CUstream_st *needed(CUstream_st *s)
{
    for (size_t i = 0; i <= streams.size(); i++) {
        if (is_ready(s))
            return s;
        if (s->works.empty() || s->busy || !s->works.front().after)
            break;
        s = s->works.front().after->stream;
    }
    emulator_fail("streams wait for each other");
}

static void do_until(CUstream_st *s, const std::function<bool()> &done)
{
    while (!done()) {
        CUstream_st *other = random_below(100) < ahead ? any_ready() : NULL;

        do_first(other ? other : needed(s));
    }
}

bool emulator_is_captured(cudaStream_t stream)
{
    return stream_of(stream)->captured;
}

static void not_captured(cudaStream_t stream, const char *call)
{
    if (emulator_is_captured(stream))
        emulator_fail("%s: the stream is captured", call);
}

void emulator_do(cudaStream_t stream, std::function<void()> work)
{
    if (emulator_is_captured(stream)) {
        stream_of(stream)->kept.push_back(std::move(work));
        return;
    }
    if (!seed) {
        work();
        return;
    }

    Locked locked;

    stream_of(stream)->works.push_back(
        { std::move(work), NULL, emulator_context() });
    if (random_below(200) < ahead)
        do_any();
}

void emulator_drain(void)
{
    Locked locked;

    for (CUstream_st *s; (s = any_ready());)
        do_first(s);
}

extern "C" {

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    EMULATOR_MAY_FAIL();
    static const unsigned chances[] = { 0, 50, 95 };
    const char *given = getenv("EMULATED_STREAMS");
    const uint64_t wanted = given ? strtoull(given, NULL, 10) : 0;
    Locked locked;

    if (seed != wanted) {
        emulator_drain();
        seed  = wanted;
        state = wanted * 0x9e3779b97f4a7c15u;
        ahead = chances[wanted % 3];
    }
    *stream = new CUstream_st;
    streams.push_back(*stream);
    emulator_made(*stream, [](void *p) {
        cudaStreamDestroy((cudaStream_t)p);
    });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags,
                                         int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    EMULATOR_MAY_FAIL();
    CUstream_st *s = stream_of(stream);
    Locked locked;

    not_captured(stream, "cudaStreamSynchronize");
    do_until(s, [=] { return s->works.empty(); });
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    Locked locked;

    if (!stream)
        return cudaErrorInvalidResourceHandle;
    do_until(stream, [=] { return stream->works.empty(); });
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream)
            streams.erase(streams.begin() + (ptrdiff_t)i--);
    emulator_freed(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    Locked locked;

    not_captured(stream, "cudaStreamQuery");
    do_any();
    return stream_of(stream)->works.empty()
               ? cudaSuccess : emulator_failed(cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                unsigned)
{
    EMULATOR_MAY_FAIL();
    Locked locked;

    if (!event)
        return cudaErrorInvalidResourceHandle;
    not_captured(stream, "cudaStreamWaitEvent");
    if (event->mark && !event->mark->done)
        stream_of(stream)->works.push_back({ [] {}, event->mark, NULL });
    return cudaSuccess;
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    EMULATOR_MAY_FAIL();
    *event = new CUevent_st;
    emulator_made(*event, [](void *p) { cudaEventDestroy((cudaEvent_t)p); });
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    EMULATOR_MAY_FAIL();
    auto mark = std::make_shared<Mark>();
    Locked locked;

    if (!event)
        return cudaErrorInvalidResourceHandle;
    not_captured(stream, "cudaEventRecord");
    mark->stream = stream_of(stream);
    event->mark  = mark;
    event->asked = 0;
    emulator_do(stream, [=] {
        clock_gettime(CLOCK_MONOTONIC, &mark->time);
        mark->done = true;
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    EMULATOR_MAY_FAIL();
    Locked locked;

    if (!event)
        return cudaErrorInvalidResourceHandle;
    event->asked = 1;
    if (auto mark = event->mark)
        do_until(mark->stream, [=] { return mark->done; });
    return cudaSuccess;
}

/* Whoever asks for the first time is told to wait. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    EMULATOR_MAY_FAIL();
    Locked locked;

    if (!event)
        return cudaErrorInvalidResourceHandle;
    do_any();
    if (event->mark && (!event->mark->done || !event->asked++))
        return emulator_failed(cudaErrorNotReady);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (!event)
        return cudaErrorInvalidResourceHandle;
    emulator_freed(event);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin,
                                 cudaEvent_t end)
{
    const Mark *b = begin ? begin->mark.get() : NULL;
    const Mark *e = end ? end->mark.get() : NULL;

    if (!b || !e)
        return cudaErrorInvalidResourceHandle;
    if (!b->done || !e->done)
        return cudaErrorNotReady;
    *ms = (float)((double)(e->time.tv_sec - b->time.tv_sec) * 1e3 +
                  (double)(e->time.tv_nsec - b->time.tv_nsec) * 1e-6);
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream,
                                   enum cudaStreamCaptureMode)
{
    if (!stream || stream->captured)
        return emulator_failed(cudaErrorInvalidValue);
    stream->captured = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = NULL;
    if (!stream || !stream->captured)
        return emulator_failed(cudaErrorInvalidValue);
    *graph = new CUgraph_st{ std::move(stream->kept) };
    stream->kept.clear();
    stream->captured = false;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes,
                              size_t *n)
{
    if (nodes)
        emulator_fail("cudaGraphGetNodes: only their number can be had");
    *n = graph->works.size();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long)
{
    emulator_counts.graphs++;
    *exec = new CUgraphExec_st{ graph->works };
    return cudaSuccess;
}

/* Other kernels in the same places are as good to CUDA, other numbers of them
 * are not. Every third time this fails for no reason: CUDA has more of them. */
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo *)
{
    static std::atomic<unsigned> asked;

    if (exec->works.size() != graph->works.size() || asked++ % 3 == 2)
        return emulator_failed(cudaErrorGraphExecUpdateFailure);
    exec->works = graph->works;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    not_captured(stream, "cudaGraphLaunch");
    emulator_counts.graph_launches++;
    for (const auto &work : exec->works)
        emulator_do(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

} /* extern "C" */
