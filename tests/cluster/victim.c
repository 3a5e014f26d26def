/* SPDX-License-Identifier: Apache-2.0
 * What the test pods run: a static program without libraries' files beside it.
 *   victim hold              waits until it is told to end
 *   victim fileless          runs a copy of itself from memory, then waits
 *   victim spawn N           runs N children that end at once, then waits
 *   victim steady MS         runs a child every MS milliseconds; by SIGUSR1 it says how many there were, and waits
 *   victim every MS          runs a copy of itself from memory every MS milliseconds
 *   victim quiet             ends at once (what the copies do)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void end(int number) {
    (void)number;
    _exit(0);
}

static volatile sig_atomic_t over;

static void enough(int number) {
    (void)number;
    over = 1;
}

static void hold(void) {
    for (;;) pause();
}

static void rest(long ms) {
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void run(int from_memory) {
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        char *argv[] = {"quiet-copy", "quiet", NULL};
        if (!from_memory) {
            execve("/proc/self/exe", argv, environ);
            fail("execve");
        }
        int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), copy = memfd_create("copy", 0);
        struct stat size;
        if (self < 0 || copy < 0 || fstat(self, &size)) fail("memfd");
        for (off_t at = 0; at < size.st_size;)
            if (sendfile(copy, self, &at, (size_t)(size.st_size - at)) <= 0) fail("sendfile");
        fexecve(copy, argv, environ);
        fail("fexecve");
    }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
    signal(SIGTERM, end); /* pid 1 of a container gets no default action */
    signal(SIGINT, end);
    const char *what = argc > 1 ? argv[1] : "hold";
    if (!strcmp(what, "quiet")) return 0;
    if (!strcmp(what, "fileless")) run(1);
    if (!strcmp(what, "spawn"))
        for (int n = argc > 2 ? atoi(argv[2]) : 1; n > 0; n--) run(0);
    if (!strcmp(what, "steady")) {
        long made = 0;
        signal(SIGUSR1, enough);
        for (; !over; made++) {
            run(0);
            rest(argc > 2 ? atol(argv[2]) : 10);
        }
        printf("made %ld\n", made);
    }
    if (!strcmp(what, "every"))
        for (;;) {
            run(1);
            rest(argc > 2 ? atol(argv[2]) : 1000);
        }
    puts("ready");
    fflush(stdout);
    hold();
}
