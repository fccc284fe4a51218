/* Whether the processor that this runs on has what kernels are written for. */
#pragma once

typedef enum { AVX2_FMA, AVX512_VNNI } Instructions;

/* The variable EDGEPORT_KERNELS set to avx2 leaves out what is newer, for comparisons. */
int processor_has(Instructions wanted);
