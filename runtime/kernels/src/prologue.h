/* What is done to a row on its way into a product: nothing, a normalization, or an activation. Knows no ONNX Runtime. */
#pragma once
#include <stdint.h>

/* The numbers stand in graphs: runtime/edgeport/session/kernel_graph.py writes them. */
enum { AS_IS, RMS_NORM, LAYER_NORM, SILU, GELU_TANH, GELU, RELU, PROLOGUES };

typedef struct {
    int64_t kind;
    int64_t gated;      /* of an activation: a row holds k gates, which it is of, and then k factors */
    float epsilon;      /* of a normalization, like the next two */
    const float *scale; /* k of them */
    const float *bias;  /* k of them, or none */
} Prologue;

static inline int is_norm(const Prologue *p) { return p->kind == RMS_NORM || p->kind == LAYER_NORM; }

typedef struct {
    float mean, factor; /* what a normalization takes away from a row, and multiplies it with then */
} Statistics;

Statistics row_statistics(const Prologue *p, const float *x, int64_t k);

/* Columns at to at + width (exclusive) of the row x, which has k, or 2k where it is gated. `to` has room for 8 more. */
void prologue(const Prologue *p, Statistics s, const float *x, int64_t k, int64_t at, int64_t width, float *to);
