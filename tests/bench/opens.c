/* SPDX-License-Identifier: Apache-2.0 */
/* A syscall-heavy load: opens COUNT. Opens and closes /dev/null so often, prints the seconds it took. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
    long count = argc > 1 ? atol(argv[1]) : 0;
    double start = now();

    for (long i = 0; i < count; i++) {
        int fd = open("/dev/null", O_RDONLY);

        if (fd < 0)
            return 1;
        close(fd);
    }
    printf("%.6f\n", now() - start);
    return 0;
}
