/*
 * Batches: operations that are asked for one by one, and of the GPU as a graph.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Between two kernels of a graph there is less than between two of a stream:
 * others measured 1.3 instead of 2.1 us for an empty one on an H100. The trial
 * "graphs" (docs/kernels.md) captures what a batch asks the stream for, kernels
 * of ours and of cuBLASLt with all their arguments, and launches it. Nothing is
 * kept of a batch but the form of its graph: one of as many nodes takes the new
 * arguments, which is some ten times cheaper than making another. So nothing
 * that changes from pass to pass can be forgotten.
 */
#include "host.h"

/* One that takes what is in `graph`, or a new one in place of the oldest. What
 * still runs of it is not disturbed, by CUDA's rules. */
static cudaError_t find_graph(struct CvCudaHost *host, cudaGraph_t graph,
                              size_t nodes, CvCudaGraph **found)
{
    CvCudaGraph *oldest = &host->graphs[0];
    cudaGraphExecUpdateResultInfo info;
    cudaError_t error;

    for (int i = 0; i < CV_CUDA_GRAPHS; i++) {
        CvCudaGraph *g = *found = &host->graphs[i];

        if (g->used && g->nodes == nodes) {
            if (!cudaGraphExecUpdate(g->exec, graph, &info))
                return cudaSuccess;
            cudaGetLastError(); /* nothing for a launch to find */
        }
        if (g->used < oldest->used)
            oldest = g;
    }
    *found = oldest;
    if (oldest->used)
        cudaGraphExecDestroy(oldest->exec);
    oldest->used = 0;
    error = cudaGraphInstantiate(&oldest->exec, graph, 0);
    oldest->nodes = nodes;
    return error;
}

static cudaError_t launch(CvCuda *cuda, cudaGraph_t graph)
{
    struct CvCudaHost *host = cuda->host;
    size_t nodes = 0;
    cudaError_t error = cudaGraphGetNodes(graph, NULL, &nodes);
    CvCudaGraph *g;

    if (error || !nodes)
        return error;
    error = find_graph(host, graph, nodes, &g);
    if (error)
        return error;
    g->used = ++host->batches;
    return cudaGraphLaunch(g->exec, cuda->stream);
}

int cv_cuda_batch(CvBackend *b, int on)
{
    CvCuda *cuda = cv_cuda(b);
    struct CvCudaHost *host = cuda->host;
    cudaGraph_t graph = NULL;
    cudaError_t error;

    if (!(cuda->trials & CV_TRIAL_GRAPHS) || on == host->batch)
        return 0;
    host->batch = on;
    /* Relaxed: kernels may be loaded meanwhile, and other threads of the
     * program do what they like. */
    if (on)
        return cv_cuda_check(cuda, cudaStreamBeginCapture(
                   cuda->stream, cudaStreamCaptureModeRelaxed), "a batch");
    error = cudaStreamEndCapture(cuda->stream, &graph);
    if (!error)
        error = launch(cuda, graph);
    if (graph)
        cudaGraphDestroy(graph);
    return cv_cuda_check(cuda, error, "a batch");
}

void cv_cuda_graphs_close(CvCuda *cuda)
{
    for (int i = 0; i < CV_CUDA_GRAPHS; i++)
        if (cuda->host->graphs[i].used)
            cudaGraphExecDestroy(cuda->host->graphs[i].exec);
}
