// The least that a command can be: by the name of cat it writes what it reads, by any other it ends.
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
    static char bytes[65536];
    const char *name = strrchr(arguments[0], '/');
    if (count != 1 || strcmp(name ? name + 1 : arguments[0], "cat")) return 0;
    for (ssize_t length; (length = read(0, bytes, sizeof bytes)) > 0;) {
        for (ssize_t done = 0, written; done < length; done += written)
            if ((written = write(1, bytes + done, length - done)) <= 0) return 1;
    }
    return 0;
}
