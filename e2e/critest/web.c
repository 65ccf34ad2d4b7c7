/* web PORT TITLE PIDFILE: one page for everybody on a port, over IPv6 and IPv4.
 * It runs under TITLE, by which the suite looks for it among processes. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char page[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                           "Content-Length: 6\r\nConnection: close\r\n\r\nhello\n";

static void end(int number) { (void)number; _exit(0); }

static int listener(in_port_t port) {
    int on = 1, off = 0, fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 both = {.sin6_family = AF_INET6, .sin6_port = port};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = port};
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
        if (bind(fd, (struct sockaddr *)&both, sizeof both) == 0)
            return fd;
        close(fd);
    }
    fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&four, sizeof four) == 0)
        return fd;
    perror("bind");
    exit(1);
}

int main(int count, char **words) {
    char asked[4096];
    if (count < 4)
        return 2;
    if (strcmp(words[0], words[2]) != 0) {
        char *program = words[0];
        words[0] = words[2];
        execv(program, words);
        return 3;
    }
    signal(SIGTERM, end);
    signal(SIGQUIT, end);
    signal(SIGINT, end);
    signal(SIGPIPE, SIG_IGN);
    int fd = listener(htons(atoi(words[1])));
    listen(fd, 64);
    FILE *file = fopen(words[3], "w");
    if (file) {
        fprintf(file, "%d\n", getpid());
        fclose(file);
    }
    printf("%s: serving port %s\n", words[2], words[1]);
    fflush(stdout);
    for (;;) {
        int client = accept(fd, 0, 0);
        if (client < 0)
            continue;
        if (read(client, asked, sizeof asked) > 0 && write(client, page, sizeof page - 1) < 0)
            perror("write");
        close(client);
    }
}
