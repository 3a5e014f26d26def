/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parents of the corpus' processes: one binary, copied to the paths of the daemons that it stands for (cron, sshd, a web server …), so that
 * what it starts has the parent that it would have there. Told what to do in messages on file descriptor 3 (SOCK_SEQPACKET), answers each with
 * the exit status in decimal. Fields of a message end with NUL; the first is its kind:
 *
 *   daemon NAME UID PATH ARGV0 ARGS…   start a copy of this program that takes messages of its own (first process only)
 *   to NAME MESSAGE…                   hand MESSAGE to that copy, and its answer back
 *   run UID CWD PROGRAM ARGS…          run a program to its end; standard streams are /dev/null
 *   spawn UID CWD PROGRAM ARGS…        the same without waiting
 *   type UID CWD PAUSE_MS TEXT PROGRAM ARGS…   run it on a terminal of its own and type TEXT line by line
 *
 * Without a descriptor 3 it is a stand-in for a program that the machine does not have: it says nothing and succeeds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE (256 << 10)
#define FIELDS 256
#define DAEMONS 16
#define LONGEST_S 90

static struct { char name[32]; int fd; } daemons[DAEMONS];
static int n_daemons;
static char message[MESSAGE], *field[FIELDS + 1];

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void become(int uid, const char *cwd)
{
    static char home[64], user[32];

    if (chdir(cwd) && chdir("/"))
        _exit(126);
    setgroups(0, NULL);
    if (setgid(uid) || setuid(uid))
        _exit(126);
    snprintf(home, sizeof home, uid ? "/home/u%d" : "/root", uid);
    snprintf(user, sizeof user, uid ? "u%d" : "root", uid);
    setenv("HOME", home, 1);
    setenv("USER", user, 1);
    signal(SIGPIPE, SIG_DFL);
}

static int ended(pid_t pid, double until)
{
    int status;

    for (;;) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (now() > until)
            kill(-pid, SIGKILL), kill(pid, SIGKILL);
        usleep(1000);
    }
}

static int run(char **argv, int wait)
{
    pid_t pid = fork();

    if (!pid) {
        int null = open("/dev/null", O_RDWR);

        setsid();
        for (int fd = 0; fd < 3; fd++)
            dup2(null, fd);
        become(atoi(argv[0]), argv[1]);
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    return pid < 0 ? 125 : wait ? ended(pid, now() + LONGEST_S) : 0;
}

static void drain(int fd, int ms)
{
    char waste[4096];
    struct pollfd one = { fd, POLLIN, 0 };

    while (poll(&one, 1, ms) > 0 && read(fd, waste, sizeof waste) > 0)
        ;
}

static int typed(char **argv)
{
    int terminal;
    double until = now() + LONGEST_S;
    pid_t pid = forkpty(&terminal, NULL, NULL, NULL);

    if (!pid) {
        become(atoi(argv[0]), argv[1]);
        execvp(argv[4], argv + 4);
        _exit(127);
    }
    if (pid < 0)
        return 125;
    drain(terminal, 60);
    for (char *line = strtok(argv[3], "\n"); line; line = strtok(NULL, "\n")) {
        if (write(terminal, line, strlen(line)) < 0 || write(terminal, "\n", 1) < 0)
            break;
        drain(terminal, atoi(argv[2]));
    }
    /* A shell that waits for its last program is given time; one whose line went astray is not. */
    while (now() < until) {
        int status;

        drain(terminal, 20);
        if (waitpid(pid, &status, WNOHANG) == pid) {
            close(terminal);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    close(terminal);
    return ended(pid, now() + 1);
}

static int start(char **argv)
{
    int ends[2];

    if (n_daemons == DAEMONS || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return 125;
    if (!fork()) {
        dup2(ends[1], 3);
        become(atoi(argv[1]), "/");
        execv(argv[2], argv + 3);
        _exit(127);
    }
    close(ends[1]);
    snprintf(daemons[n_daemons].name, sizeof daemons[0].name, "%s", argv[0]);
    daemons[n_daemons++].fd = ends[0];
    return 0;
}

static int forward(const char *name, const char *text, size_t size)
{
    char answer[16] = "";

    for (int i = 0; i < n_daemons; i++)
        if (!strcmp(daemons[i].name, name))
            return send(daemons[i].fd, text, size, 0) < 0 || recv(daemons[i].fd, answer, sizeof answer - 1, 0) <= 0 ? 124 : atoi(answer);
    return 123;
}

static int obey(ssize_t size)
{
    int n = 0;

    for (char *at = message; at < message + size && n < FIELDS; at += strlen(at) + 1)
        field[n++] = at;
    field[n] = NULL;
    if (n > 2 && !strcmp(field[0], "to"))
        return forward(field[1], field[2], message + size - field[2]);
    if (n > 3 && !strcmp(field[0], "run"))
        return run(field + 1, 1);
    if (n > 3 && !strcmp(field[0], "spawn"))
        return run(field + 1, 0);
    if (n > 5 && !strcmp(field[0], "type"))
        return typed(field + 1);
    if (n > 4 && !strcmp(field[0], "daemon"))
        return start(field + 1);
    return 122;
}

/*
 * The first process is told which descriptors it has: "MESSAGES CGROUP_PROCS". It joins its cgroup and executes itself: from there on everything is
 * the workload's.
 */
static void join(char **argv)
{
    int messages, joined;
    const char *fds = getenv("LAUNCHER_FDS");

    if (!fds || sscanf(fds, "%d %d", &messages, &joined) != 2)
        return;
    if (write(joined, "0", 1) != 1)
        exit(121);
    close(joined);
    if (messages != 3) {
        dup2(messages, 3);
        close(messages);
    }
    unsetenv("LAUNCHER_FDS");
    execv(argv[0], argv);
    exit(120);
}

int main(int argc, char **argv)
{
    ssize_t size;
    char answer[16];

    (void)argc;
    join(argv);
    if (fcntl(3, F_GETFD) < 0)
        return 0;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    while ((size = recv(3, message, sizeof message - 1, 0)) > 0) {
        message[size] = 0;
        size = snprintf(answer, sizeof answer, "%d", obey(size));
        while (getpid() == 1 && waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (send(3, answer, size, 0) < 0)
            break;
    }
    return 0;
}
