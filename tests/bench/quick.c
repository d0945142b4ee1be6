// The least that a command can be: by the name of cat it writes what it reads, by any other it ends. Without a C
// library, which asks the processor what it can do before main begins: in a virtual machine that alone can take
// longer than all the rest of a start.
//
//   cc -O2 -static -nostdlib -fno-stack-protector
#include <sys/syscall.h>

static long call(long number, long first, const void *second, unsigned long third) {
#if defined __x86_64__
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
#elif defined __aarch64__
    register long result __asm__("x0") = first;
    register const void *x1 __asm__("x1") = second;
    register unsigned long x2 __asm__("x2") = third;
    register long x8 __asm__("x8") = number;
    __asm__ volatile("svc 0" : "+r"(result) : "r"(x1), "r"(x2), "r"(x8) : "memory");
    return result;
#else
#error "for amd64 and arm64"
#endif
}

static char bytes[65536];

// The stack as the kernel leaves it: the number of arguments, and then they.
__attribute__((noreturn, used)) void begin(char **stack) {
    const char *last = stack[1];
    long failed = 0;
    for (const char *next = last; *next; next++)
        if (*next == '/') last = next + 1;
    if (last[0] == 'c' && last[1] == 'a' && last[2] == 't' && !last[3])
        for (long length; !failed && (length = call(SYS_read, 0, bytes, sizeof bytes)) > 0;)
            for (long done = 0, written; done < length && !failed; done += written)
                failed = (written = call(SYS_write, 1, bytes + done, length - done)) <= 0;
    for (;;) call(SYS_exit_group, failed, 0, 0);
}

#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#else
__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");
#endif
