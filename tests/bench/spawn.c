// The least that a command for each call can cost:   spawn CLIENTS SECONDS COMMAND
//
// Starts a command, gives it 1 KiB, reads what it writes and waits for its end, over and over, as many at a time as
// there are CLIENTS; prints how many a second.
//
// spawn ready PORT PROGRAM prints the milliseconds from a program's start until GET /_/ready on that port is a 200.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static char *command;
static double end;

static void *work(void *count) {
    char body[1024], answer[4096];
    memset(body, 'x', sizeof body);
    for (; now() < end; ++*(long *)count) {
        int in[2], out[2];
        pid_t process;
        posix_spawn_file_actions_t files;
        char *arguments[] = {command, NULL};
        if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) fail("pipe2");
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, in[0], 0);
        posix_spawn_file_actions_adddup2(&files, out[1], 1);
        errno = posix_spawn(&process, command, &files, NULL, arguments, environ);
        if (errno) fail(command);
        posix_spawn_file_actions_destroy(&files);
        close(in[0]);
        close(out[1]);
        // A command that reads nothing is no failure.
        if (write(in[1], body, sizeof body) < 0 && errno != EPIPE) fail("write");
        close(in[1]);
        while (read(out[0], answer, sizeof answer) > 0) {
        }
        close(out[0]);
        waitpid(process, NULL, 0);
    }
    return NULL;
}

static int is_ready(int port) {
    static const char request[] = "GET /_/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    char answer[13] = "";
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int stream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int ready = !connect(stream, (struct sockaddr *)&address, sizeof address) &&
                write(stream, request, sizeof request - 1) > 0 && read(stream, answer, 12) == 12 &&
                !strcmp(answer + 9, "200");
    close(stream);
    return ready;
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count != 4) {
        fputs("usage: spawn CLIENTS SECONDS COMMAND | spawn ready PORT PROGRAM\n", stderr);
        return 64;
    }
    command = arguments[3];
    if (!strcmp(arguments[1], "ready")) {
        pid_t process;
        char *words[] = {command, NULL};
        double begin = now();
        errno = posix_spawn(&process, command, NULL, NULL, words, environ);
        if (errno) fail(command);
        while (!is_ready(atoi(arguments[2]))) {
            if (now() > begin + 10) {
                fputs("it is never ready\n", stderr);
                return 1;
            }
            usleep(100);
        }
        printf("%.2f\n", (now() - begin) * 1e3);
        kill(process, SIGKILL);
        waitpid(process, NULL, 0);
        return 0;
    }
    int clients = atoi(arguments[1]);
    pthread_t threads[64];
    long counts[64] = {0}, sum = 0;
    if (clients < 1 || clients > 64) return 64;
    double seconds = atof(arguments[2]);
    end = now() + seconds;
    for (int n = 0; n < clients; n++)
        if (pthread_create(&threads[n], NULL, work, &counts[n])) fail("pthread_create");
    for (int n = 0; n < clients; n++) {
        pthread_join(threads[n], NULL);
        sum += counts[n];
    }
    printf("%.0f\n", sum / seconds);
    return 0;
}
