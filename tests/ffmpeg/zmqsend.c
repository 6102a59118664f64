/*
 * Sends one command to FFmpeg's zmq filter and prints the reply.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 *     zmqsend ADDRESS "TARGET COMMAND ARGUMENT"
 */
#include <stdio.h>
#include <string.h>

#include <zmq.h>

int main(int argc, char **argv)
{
    char reply[1024];
    int n = -1;
    void *context, *socket;

    if (argc != 3) {
        fprintf(stderr, "usage: %s ADDRESS COMMAND\n", argv[0]);
        return 2;
    }
    context = zmq_ctx_new();
    socket = context ? zmq_socket(context, ZMQ_REQ) : NULL;
    if (socket && !zmq_connect(socket, argv[1]) &&
        zmq_send(socket, argv[2], strlen(argv[2]), 0) >= 0)
        n = zmq_recv(socket, reply, sizeof(reply) - 1, 0);
    if (n >= 0) {
        reply[n < (int)sizeof(reply) ? n : (int)sizeof(reply) - 1] = 0;
        puts(reply);
    } else {
        fprintf(stderr, "%s: %s\n", argv[1], zmq_strerror(zmq_errno()));
    }
    if (socket)
        zmq_close(socket);
    if (context)
        zmq_ctx_term(context);
    return n < 0;
}
