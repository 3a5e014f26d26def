/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exec storm whose command lines differ: varied storm COUNT. Executes itself with arguments like those of compilers,
 * shells and tools, with numbers in them that change each time; anything but `storm` as the first argument ends at
 * once. Prints the seconds it took.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* %u is a number that differs from run to run; arguments are parted by blanks. */
static const char *const lines[] = {
    "-c import json,sys;print(json.load(sys.stdin)[%u])",
    "-O2 -g -Wall -Iinclude -Ibuild/generated -MD -MF build/obj/file_%u.d -o build/obj/file_%u.o -c "
    "src/module/file_%u.c",
    "-rn --include=*.py pattern_%u /srv/application/src",
    "-X POST -H Content-Type:application/json -d {\"id\":%u} http://127.0.0.1:8080/api/v1/items/%u",
    "/srv/application/batch/%u.tmp /srv/application/done/%u.json",
    "--no-pager log -1 --format=%%H -- docs/page-%u.md",
    "-e s/version=.*/version=1.%u.0/ -i deploy/values.yaml",
    "worker --queue default --id %u --max-tasks 100 --log-level info",
    "-p 1 -n %u",
    "-la /proc/%u/fd",
};

int main(int argc, char **argv)
{
    if (argc < 3 || strcmp(argv[1], "storm"))
        return 0;
    long count = atol(argv[2]);
    unsigned number = 12345;
    double start = now();

    for (long i = 0; i < count; i++) {
        char text[512], *arguments[24], *rest = NULL;
        int n = 0;
        pid_t pid;

        number = number * 1664525u + 1013904223u;
        snprintf(text, sizeof(text), lines[i % (sizeof(lines) / sizeof(*lines))], number >> 12, number >> 12,
                 number >> 12);
        arguments[n++] = argv[0];
        for (char *word = strtok_r(text, " ", &rest); word && n < 23; word = strtok_r(NULL, " ", &rest))
            arguments[n++] = word;
        arguments[n] = NULL;
        pid = vfork();
        if (pid == 0) {
            execv("/proc/self/exe", arguments);
            _exit(127);
        }
        if (pid < 0)
            return 1;
        waitpid(pid, NULL, 0);
    }
    printf("%.6f\n", now() - start);
    return 0;
}
