/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes processes as fast as the machine can: storm COUNT [RATE]. vfork and exec of itself with one argument, which
 * ends at once; RATE is executions a second (0: unthrottled). Used by tests and tests/bench; prints the seconds it
 * took.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    if (argv[1][0] == '-')
        return 0;
    long count = atol(argv[1]);
    double rate = argc > 2 ? atof(argv[2]) : 0, start = now();

    for (long i = 0; i < count; i++) {
        pid_t pid = vfork();

        if (pid == 0) {
            execl("/proc/self/exe", argv[0], "-", NULL);
            _exit(127);
        }
        if (pid < 0)
            return 1;
        waitpid(pid, NULL, 0);
        if (rate > 0) {
            double ahead = start + (i + 1) / rate - now();

            if (ahead > 0.001) {
                struct timespec t = {(time_t)ahead, (long)((ahead - (time_t)ahead) * 1e9)};

                nanosleep(&t, NULL);
            }
        }
    }
    printf("%.6f\n", now() - start);
    return 0;
}
