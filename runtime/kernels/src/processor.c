#include "processor.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

/* By cpuid (Intel's manual, volume 2A): the processor has the instructions, and the system saves their registers.
 * __builtin_cpu_supports says no to everything where zig links. */
int processor_supported(void) {
    unsigned a, b, c, d, saved, ignored;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const int fma = c >> 12 & 1, saves = c >> 27 & 1;
    if (!fma || !saves || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(ignored) : "c"(0));
    return (b >> 5 & 1) && (saved & 6) == 6;
}

#else

int processor_supported(void) { return 0; }

#endif
