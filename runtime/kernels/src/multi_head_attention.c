/* The operator edgeport.simd::MultiHeadAttention: inputs, attributes and meaning of com.microsoft::MultiHeadAttention in
 * fp32, of a model that reads: with a mask of the keys (batch, keys) or none, without bias, past and direction. Queries,
 * keys and values may stand side by side in the first input, the next two absent. */
#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "operators.h"
#include "processor.h"

enum { QUERY, KEY, VALUE, BIAS, MASK, INPUTS };
enum { TASK = 2 * MANY }; /* queries of a head in a thread's task */

typedef struct {
    const OrtApi *api;
    int64_t heads;
    float scale;
} Kernel;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    (void)op;
    Kernel made = {.api = api};
    *out = NULL;
    if (!processor_has(AVX2_FMA)) return api->create_status(ORT_FAIL, "this processor has no AVX2");
    TRY(api->attribute_int(info, "num_heads", &made.heads));
    if (made.heads < 1 || made.heads > 1 << 16) return wrong(api, "num_heads is out of range");
    OrtStatus *absent = api->attribute_float(info, "scale", &made.scale);
    if (absent) api->release_status(absent);
    Kernel *kernel = malloc(sizeof *kernel);
    if (!kernel) return api->create_status(ORT_FAIL, "out of memory");
    *kernel = made;
    *out = kernel;
    return NULL;
}

static void destroy(void *kernel) { free(kernel); }

typedef struct {
    const float *query, *key, *value;
    float *output;
    int64_t batch, new, keys, heads, size;
    int64_t query_width, key_width; /* floats from one token to the next */
    int64_t parts;                  /* tasks of a head */
    int32_t *seen;                  /* (batch, keys): the keys that the mask leaves, in front; null without a mask */
    int64_t *count;                 /* (batch): how many */
    float scale;
} Call;

/* The keys that the mask leaves. Where it leaves none it is as if it left all: each loses as much as the others. */
static void read_mask(const Call *c, const int32_t *mask) {
    for (int64_t row = 0; row < c->batch; row++) {
        const int32_t *from = mask + row * c->keys;
        int32_t *seen = c->seen + row * c->keys;
        int64_t count = 0;
        for (int32_t j = 0; j < c->keys; j++)
            if (from[j]) seen[count++] = j;
        if (!count)
            for (; count < c->keys; count++) seen[count] = (int32_t)count;
        c->count[row] = count;
    }
}

static void answer(void *data, size_t index) {
    const Call *c = data;
    const int64_t part = (int64_t)index % c->parts, pair = (int64_t)index / c->parts;
    const int64_t row = pair / c->heads, column = pair % c->heads * c->size;
    const int64_t first = row * c->keys * c->key_width + column, end = (part + 1) * TASK < c->new ? (part + 1) * TASK : c->new;
    const Memory memory = {c->key + first, c->value + first, c->key_width, c->seen ? c->seen + row * c->keys : NULL};
    float queries[MANY * LARGEST_HEAD], spare[LARGEST_HEAD];
    for (int64_t at = part * TASK; at < end; at += MANY) {
        const int count = end - at < MANY ? (int)(end - at) : MANY;
        int64_t visible[MANY];
        float *outputs[MANY];
        for (int r = 0; r < MANY; r++) {
            const int64_t token = row * c->new + at + r;
            const float *query = c->query + token * c->query_width + column;
            for (int64_t i = 0; i < c->size; i++) queries[r * c->size + i] = r < count ? query[i] * c->scale : 0;
            visible[r] = r >= count ? 0 : c->seen ? c->count[row] : c->keys;
            outputs[r] = r < count ? c->output + token * c->heads * c->size + column : spare;
        }
        attend_many(c->size, count, queries, &memory, visible, outputs);
    }
}

static OrtStatus *read_inputs(const OrtApi *api, OrtKernelContext *context, Call *c, const int32_t **mask) {
    int64_t query[3], key[3], value[3], masked[2];
    const void *bias;
    TRY(tensor(api, context, QUERY, 3, query, (const void **)&c->query));
    TRY(tensor(api, context, KEY, 3, key, (const void **)&c->key));
    TRY(tensor(api, context, VALUE, 3, value, (const void **)&c->value));
    TRY(tensor(api, context, BIAS, 1, masked, &bias));
    TRY(tensor(api, context, MASK, 2, masked, (const void **)mask));
    const int packed = !c->key;
    const int64_t parts = packed ? 3 * c->heads : c->heads;
    if (bias || packed != !c->value) return wrong(api, "there is a bias, or keys without values");
    if (query[2] < parts || query[2] % parts) return wrong(api, "the queries' width is no multiple of the heads");
    c->batch = query[0];
    c->new = query[1];
    c->keys = packed ? query[1] : key[1];
    c->size = query[2] / parts;
    c->query_width = query[2];
    c->key_width = packed ? query[2] : c->heads * c->size;
    if (c->size % 8 || c->size > LARGEST_HEAD) return wrong(api, "a head's size is no multiple of 8, or more than 256");
    if (packed) {
        c->key = c->query + c->heads * c->size;
        c->value = c->key + c->heads * c->size;
    } else if (key[0] != c->batch || key[2] != c->key_width || key[0] != value[0] || key[1] != value[1] || key[2] != value[2])
        return wrong(api, "keys, values and queries differ in their sizes");
    if (*mask && (masked[0] != c->batch || masked[1] != c->keys)) return wrong(api, "the mask has other sizes than the keys");
    return NULL;
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const Kernel *kernel = data;
    const OrtApi *api = kernel->api;
    Call c = {.heads = kernel->heads};
    const int32_t *mask = NULL;
    OrtValue *output = NULL;
    TRY(read_inputs(api, context, &c, &mask));
    const int64_t sizes[] = {c.batch, c.new, c.heads * c.size};
    TRY(api->output(context, 0, sizes, 3, &output));
    if (c.batch * c.new == 0) return NULL;
    if (c.keys < 1 || c.keys > INT32_MAX) return wrong(api, "there are no keys, or too many");
    TRY(api->tensor_data(output, (void **)&c.output));
    c.scale = kernel->scale != 0 ? kernel->scale : 1 / sqrtf((float)c.size);
    c.parts = (c.new + TASK - 1) / TASK;
    if (mask) {
        c.count = malloc((size_t)c.batch * (sizeof(int64_t) + (size_t)c.keys * sizeof(int32_t)));
        if (!c.count) return api->create_status(ORT_FAIL, "out of memory");
        c.seen = (int32_t *)(c.count + c.batch);
        read_mask(&c, mask);
    }
    const size_t tasks = (size_t)(c.batch * c.heads * c.parts);
    OrtStatus *status = api->parallel_for(context, answer, tasks, tasks, &c);
    free(c.count);
    return status;
}

static const char *name(const OrtCustomOp *op) { return (void)op, "MultiHeadAttention"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static size_t output_count(const OrtCustomOp *op) { return (void)op, 1; }
static int input_type(const OrtCustomOp *op, size_t i) { return (void)op, i == MASK ? ORT_INT32 : ORT_FLOAT; }
static int input_kind(const OrtCustomOp *op, size_t i) { return (void)op, i > QUERY ? ORT_OPTIONAL : ORT_REQUIRED; }

const OrtCustomOp multi_head_attention = {
    ON_CPU,
    .name = name,
    .input_type = input_type,
    .input_count = input_count,
    .output_count = output_count,
    .destroy = destroy,
    .input_kind = input_kind,
    .create_kernel = create,
    .compute = compute,
};
