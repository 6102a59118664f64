/*
 * Coroutines that stand in for the threads of a block, and their scheduler.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A coroutine and its stack live until the program ends: when its thread of a
 * block is done it waits for that of the next block. On x86-64 a switch is a
 * few instructions of our own (swapcontext asks the system for the signal mask
 * each time, which costs 50 times as much); elsewhere it is swapcontext.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <mutex>
#include <vector>

#include "emulator.h"
#include "streams.h"
#include "device_memory.h"
#include "faults.h"

#if !defined(__x86_64__) || defined(EMULATOR_UCONTEXT)
#define USE_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef HAVE_ASAN
#include <sanitizer/common_interface_defs.h>
enum { STACK_BYTES = 512 << 10 };
#else
enum { STACK_BYTES = 128 << 10 };
#endif

enum {
    MAX_THREADS = 1024,
    MAX_SHARED = 227 << 10, /* of a block, on any GPU so far */
    GUARD = 64 << 10,       /* a multiple of all page sizes */
    CANARY = 0xa5,
};

enum State {
    READY,
    AT_BARRIER,
    IN_WARP,
    UNTIL, /* emulator_wait_until */
    ENDED,
};

struct Copy {
    void *dst;
    const void *src;
    size_t bytes;
    int valid, group;
};

struct Coroutine {
    void *sp;
    void *stack;
#ifdef USE_UCONTEXT
    ucontext_t context;
#endif
#ifdef HAVE_ASAN
    void *fake_stack;
    const void *stack_bottom; /* the host's, known after its first switch */
    size_t stack_bytes;
#endif
    uint3 index;
    int number;
    bool begun; /* emulator_begin */
    State state;
    int barrier;
    EmulatorPlace place;
    int (*until)(void *);
    void *until_cookie;
    std::vector<Copy> copies; /* not made yet */
    int group;                /* that is being filled */
};

struct Warp {
    uint32_t arrived, mask;
    void (*run)(void **, uint32_t);
    EmulatorPlace place;
    void *arguments[32];
};

struct Barrier {
    int arrived, threads;
    EmulatorPlace place;
};
enum { N_BARRIERS = 16 };

uint3 threadIdx, blockIdx;
dim3 blockDim(0, 0, 0), gridDim(0, 0, 0);
EmulatorCounts emulator_counts;

/* With EMULATOR_COUNTS in the environment: the counts at the end. */
static struct Report {
    ~Report()
    {
        const EmulatorCounts *c = &emulator_counts;

        if (getenv("EMULATOR_COUNTS"))
            fprintf(stderr, "# emulator: %lld launches, %lld graphs launched "
                    "%lld times, %lld blocks, %lld switches, %lld mma, %lld "
                    "ldmatrix with %lld bank conflicts\n",
                    (long long)c->launches, (long long)c->graphs,
                    (long long)c->graph_launches,
                    (long long)c->blocks, (long long)c->switches,
                    (long long)c->mmas, (long long)c->ldmatrices,
                    (long long)c->bank_conflicts);
    }
} report;

/* One launch at a time: the variables above and below are its own. */
static std::mutex launching;
static Coroutine host, coroutines[MAX_THREADS];
static Coroutine *current = &host, *before;
static Warp warps[MAX_THREADS / 32];
static Barrier barriers[N_BARRIERS];
static int n_threads, n_begun, n_ended;
static bool opened; /* device memory, for this launch */
static Coroutine *ready[MAX_THREADS];
static int first_ready, n_ready, n_until;
static const char *kernel_name;
static const std::function<void()> *kernel;
static uint64_t order_seed, random_state;
/* Of the linker: variables that are __shared__; NULL when there are none. */
extern char __start_cv_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cv_shared[] __attribute__((weak, visibility("hidden")));
static uint8_t *shared_end; /* where the guarded page begins */
static uint8_t *shared;
static size_t shared_bytes;

void emulator_set_order(uint64_t seed)
{
    std::lock_guard<std::mutex> lock(launching);

    order_seed = seed;
}

void *emulator_shared(void)
{
    return shared;
}

int emulator_lane(void)
{
    return current->number & 31;
}

/* ---- reports ---- */

static void print_kernel(void)
{
    fprintf(stderr, "# emulator: %s, grid %u x %u x %u, block "
            "%u x %u x %u, %zu bytes of shared memory\n# emulator: block %u, "
            "%u, %u", kernel_name ? kernel_name : "no kernel", gridDim.x,
            gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z, shared_bytes,
            blockIdx.x, blockIdx.y, blockIdx.z);
    if (current != &host)
        fprintf(stderr, ", thread %u, %u, %u", current->index.x,
                current->index.y, current->index.z);
    fputc('\n', stderr);
}

void emulator_fail(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("# emulator: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    if (kernel_name)
        print_kernel();
    fflush(stderr);
    abort();
}

static const char *base_name(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;

    return slash ? slash + 1 : path ? path : "?";
}

static int same_place(const EmulatorPlace *a, const EmulatorPlace *b)
{
    return a->line == b->line &&
           (a->what == b->what || !strcmp(a->what, b->what)) &&
           (a->file == b->file || !strcmp(a->file, b->file));
}

/* Nobody can go on: say where everybody is. */
__attribute__((noreturn))
static void diverged(void)
{
    std::vector<char> told((size_t)n_threads);
    int n, last;

    fflush(stdout);
    fputs("# emulator: threads of a block wait for others that do not come:\n",
          stderr);
    for (int i = 0; i < n_threads; i++) {
        Coroutine *a = &coroutines[i];

        n = 0;
        last = i;
        for (int j = i; j < n_threads; j++) {
            Coroutine *b = &coroutines[j];

            if (told[(size_t)j] || a->state != b->state ||
                (a->state != ENDED && !same_place(&a->place, &b->place)))
                continue;
            told[(size_t)j] = 1;
            last = j;
            n++;
        }
        if (!n)
            continue;
        fprintf(stderr, "# emulator: %d thread%s (%d..%d) ", n,
                n == 1 ? "" : "s", i, last);
        if (a->state == ENDED)
            fputs("ended\n", stderr);
        else
            fprintf(stderr, "at %s, %s:%d\n", a->place.what,
                    base_name(a->place.file), a->place.line);
    }
    current = &host;
    emulator_fail("the block cannot complete");
}

/* ---- switching ---- */

static void coroutine_main(void);

#ifndef USE_UCONTEXT
extern "C" void emulator_switch(void **save, void *load);
asm(".text\n"
    ".p2align 4\n"
    ".type emulator_switch,@function\n"
    "emulator_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emulator_switch,.-emulator_switch\n");
#endif

static void make_coroutine(Coroutine *c)
{
    uint8_t *memory = (uint8_t *)mmap(NULL, GUARD + STACK_BYTES,
                                      PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS |
                                      MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE))
        emulator_fail("no memory for stacks");
    c->stack = memory + GUARD;
#ifdef HAVE_ASAN
    c->stack_bottom = c->stack;
    c->stack_bytes = STACK_BYTES;
#endif
#ifndef USE_UCONTEXT
    void **sp = (void **)((uint8_t *)c->stack + STACK_BYTES) - 2;

    /* The return address leaves the stack as a call would. */
    sp[0] = (void *)coroutine_main;
    sp[1] = NULL;
    c->sp = sp - 6;
#else
    getcontext(&c->context);
    c->context.uc_stack.ss_sp = c->stack;
    c->context.uc_stack.ss_size = STACK_BYTES;
    c->context.uc_link = NULL;
    makecontext(&c->context, coroutine_main, 0);
#endif
}

/* Called first by whoever runs after a switch. */
static void switched(void)
{
#ifdef HAVE_ASAN
    const void *bottom;
    size_t bytes;

    __sanitizer_finish_switch_fiber(current->fake_stack, &bottom, &bytes);
    if (before == &host) {
        host.stack_bottom = bottom;
        host.stack_bytes = bytes;
    }
#endif
}

static void switch_to(Coroutine *next)
{
    Coroutine *self = current;

    if (next == self)
        return;
    before = self;
    current = next;
    threadIdx = next->index;
    emulator_counts.switches++;
#ifdef HAVE_ASAN
    __sanitizer_start_switch_fiber(&self->fake_stack, next->stack_bottom,
                                   next->stack_bytes);
#endif
#ifndef USE_UCONTEXT
    emulator_switch(&self->sp, next->sp);
#else
    swapcontext(&self->context, &next->context);
#endif
    switched();
}

/* ---- the scheduler ---- */

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

static void make_ready(Coroutine *c)
{
    c->state = READY;
    ready[(first_ready + n_ready++) % MAX_THREADS] = c;
}

static Coroutine *next_ready(void)
{
    Coroutine *c;

    if (!n_ready && n_until)
        for (int i = 0; i < n_threads; i++)
            if (coroutines[i].state == UNTIL &&
                coroutines[i].until(coroutines[i].until_cookie)) {
                n_until--;
                make_ready(&coroutines[i]);
            }
    if (!n_ready) {
        if (n_ended == n_threads)
            return &host;
        diverged();
    }
    if (order_seed) {
        int i = (first_ready + (int)random_below((uint64_t)n_ready)) %
                MAX_THREADS;

        c = ready[i];
        ready[i] = ready[first_ready];
    } else {
        c = ready[first_ready];
    }
    first_ready = (first_ready + 1) % MAX_THREADS;
    n_ready--;
    return c;
}

static void coroutine_main(void)
{
    switched();
    for (;;) {
        (*kernel)();
        if (!current->begun)
            emulator_fail("a thread ends that did not call cv_begin()");
        current->copies.clear();
        current->state = ENDED;
        n_ended++;
        switch_to(next_ready());
    }
}

static void wait(State state, EmulatorPlace place)
{
    current->state = state;
    current->place = place;
    switch_to(next_ready());
}

void emulator_named_barrier(int id, int threads, EmulatorPlace place)
{
    Barrier *b = &barriers[id & (N_BARRIERS - 1)];

    if (id < 0 || id >= N_BARRIERS)
        emulator_fail("%s, %s:%d: there is no barrier %d", place.what,
                      base_name(place.file), place.line, id);
    if (b->arrived && (b->threads != threads ||
                       (!id && !same_place(&b->place, &place))))
        emulator_fail("threads of a block meet at different barriers: %s, "
                      "%s:%d and %s, %s:%d", b->place.what,
                      base_name(b->place.file), b->place.line, place.what,
                      base_name(place.file), place.line);
    b->threads = threads;
    b->place = place;
    if (++b->arrived < threads) {
        current->barrier = id;
        wait(AT_BARRIER, place);
        return;
    }
    b->arrived = 0;
    for (int i = 0; i < n_threads; i++)
        if (coroutines[i].state == AT_BARRIER && coroutines[i].barrier == id)
            make_ready(&coroutines[i]);
}

void emulator_barrier(EmulatorPlace place)
{
    emulator_named_barrier(0, n_threads, place);
}

static void sleep_until(int (*until)(void *), void *cookie,
                        EmulatorPlace place)
{
    current->until = until;
    current->until_cookie = cookie;
    n_until++;
    wait(UNTIL, place);
}

void emulator_wait_until(int (*until)(void *), void *cookie,
                         EmulatorPlace place)
{
    if (!until(cookie))
        sleep_until(until, cookie, place);
}

static int all_have_begun(void *)
{
    return n_begun == n_threads;
}

/* Device memory is closed until all threads of the first block are here: what a
 * kernel touches before, it would touch while the one before it runs. All wait,
 * so that they go on in their order. */
void emulator_begin(const char *file_, int line_)
{
    void *nothing = NULL;

    if (current->begun)
        return;
    current->begun = true;
    n_begun++;
    if (opened)
        return;
    if (all_have_begun(NULL)) {
        emulator_enter();
        opened = true;
    }
    sleep_until(all_have_begun, &nothing, EMULATOR_AT("cv_begin"));
}

void emulator_give_way(const void *what)
{
    if (!order_seed)
        return;
    for (int i = 0; i < n_threads; i++) {
        Coroutine *c = &coroutines[i];

        if (c->state == UNTIL && *(void **)c->until_cookie == what &&
            c->until(c->until_cookie)) {
            n_until--;
            make_ready(c);
        }
    }
    make_ready(current);
    switch_to(next_ready());
}

void emulator_collective(void (*run)(void **, uint32_t), void *argument,
                         uint32_t mask, EmulatorPlace place)
{
    int lane = current->number & 31;
    Warp *w = &warps[current->number / 32];

    if (!(mask >> lane & 1))
        emulator_fail("%s, %s:%d: lane %d is not in its mask %08x",
                      place.what, base_name(place.file), place.line, lane,
                      mask);
    if (!w->arrived) {
        w->run = run;
        w->mask = mask;
        w->place = place;
    } else if (w->run != run || w->mask != mask ||
               !same_place(&w->place, &place)) {
        emulator_fail("lanes of a warp meet at different places: %s, %s:%d, "
                      "mask %08x, and %s, %s:%d, mask %08x", w->place.what,
                      base_name(w->place.file), w->place.line, w->mask,
                      place.what, base_name(place.file), place.line, mask);
    }
    w->arguments[lane] = argument;
    w->arrived |= 1u << lane;
    if (w->arrived != mask) {
        wait(IN_WARP, place);
        return;
    }
    w->arrived = 0;
    run(w->arguments, mask);
    for (int i = 0; i < 32; i++)
        if (i != lane && mask >> i & 1)
            make_ready(current - lane + i);
}

/* ---- asynchronous copies ---- */

void emulator_copy_later(void *dst, const void *src, size_t bytes, int valid)
{
    memset(dst, 0xff, bytes);
    current->copies.push_back({ dst, src, bytes, valid, current->group });
}

void emulator_commit_copies(void)
{
    current->group++;
}

void emulator_await_copies(int n)
{
    size_t done = 0;

    for (const Copy &c : current->copies) {
        if (c.group >= current->group - n)
            break;
        if (c.valid)
            memcpy(c.dst, c.src, c.bytes);
        else
            memset(c.dst, 0, c.bytes);
        done++;
    }
    current->copies.erase(current->copies.begin(),
                          current->copies.begin() + (ptrdiff_t)done);
}

/* ---- launching ---- */

static void check_configuration(dim3 grid, dim3 block, size_t bytes)
{
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
        (uint64_t)block.x * block.y * block.z > MAX_THREADS || block.z > 64 ||
        bytes > MAX_SHARED)
        emulator_fail("no GPU can launch this");
}

static void make_shared(void)
{
    uint8_t *memory;

    if (shared_end)
        return;
    memory = (uint8_t *)mmap(NULL, 2 * GUARD + (256 << 10),
                             PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE) ||
        mprotect(memory + GUARD + (256 << 10), GUARD, PROT_NONE))
        emulator_fail("no memory for shared memory");
    shared_end = memory + GUARD + (256 << 10);
}

static void run_block(size_t slack)
{
    if (__start_cv_shared)
        memset(__start_cv_shared, 0xff,
               (size_t)(__stop_cv_shared - __start_cv_shared));
    memset(shared, 0xff, shared_bytes);
    memset(shared + shared_bytes, CANARY, slack);
    memset(warps, 0, sizeof(warps));
    memset(barriers, 0, sizeof(barriers));
    n_begun = n_ended = first_ready = n_ready = n_until = 0;
    for (int i = 0; i < n_threads; i++) {
        coroutines[i].begun = false;
        make_ready(&coroutines[i]);
    }
    switch_to(next_ready());
    emulator_counts.blocks++;
    for (size_t i = 0; i < slack; i++)
        if (shared[shared_bytes + i] != CANARY)
            emulator_fail("byte %zu of %zu bytes of shared memory was "
                          "written", shared_bytes + i, shared_bytes);
}

/* The compiler checks alignment by an instruction that does not exist. Where
 * it stands is told as addr2line takes it. */
static void on_trap(int number, siginfo_t *info, void *)
{
    Dl_info where = {};

    signal(number, SIG_DFL);
    dladdr(info->si_addr, &where);
    emulator_fail("an access to an address that is not a multiple of the "
                  "type's size, or another error that the compiler looks for: "
                  "addr2line -i -e %s %#tx",
                  where.dli_fname ? where.dli_fname : "?",
                  (uint8_t *)info->si_addr - (uint8_t *)where.dli_fbase);
}

/* What faulted, as far as it can be told. */
static void on_fault(int number, siginfo_t *info, void *)
{
    const uint8_t *p = (const uint8_t *)info->si_addr;
    char text[160];

    signal(number, SIG_DFL);
    if (kernel_name && p >= shared_end && p < shared_end + GUARD)
        snprintf(text, sizeof(text), "%td bytes after shared memory",
                 p - (shared + shared_bytes));
    else if (kernel_name && p >= shared_end - (256 << 10) - GUARD &&
             p < shared)
        snprintf(text, sizeof(text), "%td bytes before shared memory",
                 shared - p);
    else if (current != &host && p < (uint8_t *)current->stack &&
             p >= (uint8_t *)current->stack - GUARD)
        snprintf(text, sizeof(text), "more than %d bytes of stack",
                 (int)STACK_BYTES);
    else
        emulator_describe_address(text, sizeof(text), p);
    if (current != &host)
        emulator_fail("a thread touched %p: %s%s", (const void *)p, text,
                      opened ? "" : ", before cv_begin()");
    kernel_name = NULL;
    emulator_fail("the host touched %p: %s", (const void *)p, text);
}

/* Of this thread: its stack for the report; of the program: once. */
void emulator_catch_faults(void)
{
#ifndef HAVE_ASAN
    static thread_local uint8_t stack[64 << 10];
    static thread_local int done;
    stack_t alternative = {};
    struct sigaction action = {};

    if (done)
        return;
    done = 1;
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof(stack);
    sigaltstack(&alternative, NULL);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    action.sa_sigaction = on_trap;
    sigaction(SIGILL, &action, NULL);
    sigaction(SIGTRAP, &action, NULL);
#else
    (void)on_fault;
    (void)on_trap;
#endif
}

static void run_kernel(dim3 grid, dim3 block, size_t bytes, const char *name,
                       const std::function<void()> &run)
{
    std::lock_guard<std::mutex> lock(launching);
    uint64_t n_blocks = (uint64_t)grid.x * grid.y * grid.z, step = 1, at = 0;
    size_t slack = (1024 - bytes % 1024) % 1024;

    kernel_name = name;
    gridDim = grid;
    blockDim = block;
    blockIdx = { 0, 0, 0 };
    shared_bytes = bytes;
    check_configuration(grid, block, bytes);
    kernel = &run;
    make_shared();
    shared = shared_end - bytes - slack;
    n_threads = (int)(block.x * block.y * block.z);
    for (int i = 0; i < n_threads; i++) {
        Coroutine *c = &coroutines[i];
        unsigned n = (unsigned)i;

        c->index = { n % block.x, n / block.x % block.y,
                     n / block.x / block.y };
        c->number = i;
        if (!c->stack)
            make_coroutine(c);
    }
    emulator_catch_faults();
    if (order_seed) {
        static const uint64_t primes[] = { 7919, 104729, 1299709 };

        random_state = order_seed * 0x9e3779b97f4a7c15u | 1;
        for (uint64_t p : primes)
            if (n_blocks % p)
                step = p;
        at = random_below(n_blocks);
    }
    emulator_counts.launches++;
    opened = false;
    for (uint64_t i = 0; i < n_blocks; i++) {
        blockIdx = { (unsigned)(at % grid.x),
                     (unsigned)(at / grid.x % grid.y),
                     (unsigned)(at / grid.x / grid.y) };
        run_block(slack);
        at = (at + step) % n_blocks;
    }
    emulator_leave();
    kernel_name = NULL;
}

void emulator_run(cudaStream_t stream, dim3 grid, dim3 block, size_t bytes,
                  const char *name, std::function<void()> run)
{
    if (cudaPeekAtLastError() != cudaSuccess)
        emulator_fail("nobody has asked for the error of an earlier call: the "
                      "launch of %s would be taken for wrong", name);
    if (emulator_runtime_fault())
        return;
    emulator_do(stream, [=] {
        run_kernel(grid, block, bytes, name, run);
    });
}
