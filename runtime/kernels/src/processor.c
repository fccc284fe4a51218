#include "processor.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

enum { SAVES_YMM = 0x6, SAVES_ZMM = 0xe6 }; /* what the system keeps of registers when it turns to another thread */

static int bit(unsigned value, int index) { return value >> index & 1; }

/* By cpuid (Intel's manual, volume 2A): the processor has the instructions, and the system saves their registers.
 * __builtin_cpu_supports says no to everything where zig links. */
int processor_has(Instructions wanted) {
    unsigned a, b, c, d, saved, ignored;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const int fma = bit(c, 12), tells_saved = bit(c, 27);
    if (!fma || !tells_saved || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(ignored) : "c"(0));
    if (wanted == AVX2_FMA) return bit(b, 5) && (saved & SAVES_YMM) == SAVES_YMM;
    const char *choice = getenv("EDGEPORT_KERNELS");
    if (choice && !strcmp(choice, "avx2")) return 0;
    const int avx512 = bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31); /* f, dq, bw, vl */
    return avx512 && bit(c, 11) && (saved & SAVES_ZMM) == SAVES_ZMM;
}
