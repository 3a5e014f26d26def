/* SPDX-License-Identifier: Apache-2.0
 * Sends the frames of a pcap file (microseconds, little endian), over and over, on an interface at a rate.
 *   blast INTERFACE FILE PACKETS_A_SECOND PACKETS
 * It prints how many it sent and the seconds of CPU that this took.
 */
#define _GNU_SOURCE
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    double rate = atof(argv[3]);
    long wanted = atol(argv[4]), sent = 0, count = 0, room = 1 << 20;
    FILE *file = fopen(argv[2], "rb");
    struct iovec *frames = malloc(room * sizeof(*frames));
    unsigned int head[4];

    if (!file || !frames || fseek(file, 24, SEEK_SET)) fail(argv[2]);
    while (count < room && fread(head, sizeof(head), 1, file) == 1) {
        frames[count].iov_base = malloc(head[2]);
        frames[count].iov_len = head[2];
        if (fread(frames[count].iov_base, head[2], 1, file) != 1) break;
        count++;
    }
    int out = socket(AF_PACKET, SOCK_RAW, 0), bytes = 8 << 20, on = 1;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex(argv[1])};
    if (out < 0 || bind(out, (struct sockaddr *)&to, sizeof(to))) fail("bind");
    setsockopt(out, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
    /* Past the queueing discipline: what is measured is the receiver. */
    setsockopt(out, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof(on));

    double begin = seconds(CLOCK_MONOTONIC);
    while (sent < wanted) {
        struct mmsghdr messages[BATCH] = {};
        long due = (seconds(CLOCK_MONOTONIC) - begin) * rate, n = due - sent;
        if (n > wanted - sent) n = wanted - sent;
        if (n < 1) {
            nanosleep(&(struct timespec){0, 500000}, NULL);
            continue;
        }
        if (n > BATCH) n = BATCH;
        for (int i = 0; i < n; i++) {
            messages[i].msg_hdr.msg_iov = &frames[(sent + i) % count];
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        int done = sendmmsg(out, messages, n, 0);
        if (done < 0) fail("sendmmsg");
        sent += done;
    }
    printf("%ld %.6f\n", sent, seconds(CLOCK_PROCESS_CPUTIME_ID));
    return 0;
}
