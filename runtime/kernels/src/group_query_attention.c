/* The operator edgeport.simd::GroupQueryAttention: inputs, attributes and meaning of com.microsoft::GroupQueryAttention
 * in fp32, with a cache of fp32, and without window, cap, bias and sinks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "operators.h"
#include "processor.h"

enum { QUERY, KEY, VALUE, PAST_KEY, PAST_VALUE, LAST, TOTAL, COS, SIN, INPUTS };
enum { OUTPUT, PRESENT_KEY, PRESENT_VALUE, OUTPUTS };
enum { TASK = 64 }; /* queries of one key/value head in a thread's task */

typedef struct {
    const OrtApi *api;
    Heads heads;
} Kernel;

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    (void)op;
    Kernel *kernel = calloc(1, sizeof *kernel);
    *out = NULL;
    if (!kernel) return api->create_status(ORT_FAIL, "out of memory");
    kernel->api = api;
    Heads *h = &kernel->heads;
    int64_t rotates = 0, interleaved = 0;
    OrtStatus *status = api->attribute_int(info, "num_heads", &h->heads);
    if (!status) status = api->attribute_int(info, "kv_num_heads", &h->kv_heads);
    if (!status && !processor_has(AVX2_FMA)) status = api->create_status(ORT_FAIL, "this processor has no AVX2");
    if (!status && (h->heads < 1 || h->kv_heads < 1 || h->heads % h->kv_heads || h->heads > 1 << 16))
        status = wrong(api, "num_heads or kv_num_heads is out of range");
    if (status) return free(kernel), status;
    OrtStatus *absent[] = {api->attribute_float(info, "scale", &h->scale), api->attribute_int(info, "do_rotary", &rotates),
                           api->attribute_int(info, "rotary_interleaved", &interleaved)};
    for (int i = 0; i < 3; i++)
        if (absent[i]) api->release_status(absent[i]);
    h->rotates = rotates != 0;
    h->interleaved = interleaved != 0;
    *out = kernel;
    return NULL;
}

static void destroy(void *kernel) { free(kernel); }

typedef struct {
    Heads heads;
    const float *query, *key, *value; /* (batch, new, width of the input) */
    int64_t query_width, key_width;
    const float *past_key, *past_value;
    float *output, *present_key, *present_value;
    const int32_t *last; /* of each row of the batch: its length, less one */
    int64_t batch, new, past_capacity, capacity, tasks;
    int first; /* whether nothing is in the cache yet */
} Call;

static int64_t past_of(const Call *c, int64_t row) { return c->first ? 0 : (int64_t)c->last[row] + 1 - c->new; }

/* New keys and values of one head of one row into the cache. */
static void store(void *data, size_t index) {
    const Call *c = data;
    const Heads *h = &c->heads;
    const int64_t row = (int64_t)index / h->kv_heads, head = (int64_t)index % h->kv_heads, past = past_of(c, row);
    float *keys = c->present_key + (int64_t)index * c->capacity * h->size;
    float *values = c->present_value + (int64_t)index * c->capacity * h->size;
    if (keys != c->past_key + (int64_t)index * c->past_capacity * h->size && past) {
        const size_t bytes = (size_t)(past * h->size) * sizeof(float);
        memcpy(keys, c->past_key + (int64_t)index * c->past_capacity * h->size, bytes);
        memcpy(values, c->past_value + (int64_t)index * c->past_capacity * h->size, bytes);
    }
    for (int64_t i = 0; i < c->new; i++) {
        const int64_t from = (row * c->new + i) * c->key_width + head * h->size;
        rotate(h, c->key + from, past + i, 1, keys + (past + i) * h->size);
        memcpy(values + (past + i) * h->size, c->value + from, (size_t)h->size * sizeof(float));
    }
}

/* Some queries of the heads that share one head of keys and values: neighbours in position first, then in head. */
static void answer(void *data, size_t index) {
    const Call *c = data;
    const Heads *h = &c->heads;
    const int64_t group = h->heads / h->kv_heads, all = c->new * group, part = (int64_t)index % c->tasks;
    const int64_t pair = (int64_t)index / c->tasks, row = pair / h->kv_heads, kv_head = pair % h->kv_heads;
    const int64_t past = past_of(c, row), end = (part + 1) * TASK < all ? (part + 1) * TASK : all;
    const Memory cache = {c->present_key + pair * c->capacity * h->size, c->present_value + pair * c->capacity * h->size,
                          h->size, NULL};
    float queries[MANY * LARGEST_HEAD];
    memset(queries, 0, sizeof(float) * (size_t)(FEW * h->size)); /* where there are fewer, zeros are read */
    for (int64_t at = part * TASK, count; at < end; at += count) {
        count = end - at >= MANY ? MANY : end - at >= FEW ? FEW : end - at;
        int64_t visible[MANY];
        float *outputs[MANY];
        for (int r = 0; r < count; r++) {
            const int64_t position = (at + r) / group, head = kv_head * group + (at + r) % group;
            const int64_t token = row * c->new + position;
            rotate(h, c->query + token * c->query_width + head * h->size, past + position, h->scale, queries + r * h->size);
            visible[r] = past + position + 1;
            outputs[r] = c->output + (token * h->heads + head) * h->size;
        }
        if (count == MANY) attend_many(h->size, MANY, queries, &cache, visible, outputs);
        else attend(h->size, (int)count, queries, cache.keys, cache.values, visible, outputs);
    }
}

/* A token of one row: both at once. */
static void store_and_answer(void *data, size_t index) {
    store(data, index);
    answer(data, index);
}

/* Sizes and pointers of all inputs, checked against each other. */
static OrtStatus *read_inputs(const OrtApi *api, OrtKernelContext *context, Call *c, int64_t *total) {
    Heads *h = &c->heads;
    int64_t query[3], key[3], value[3], past_key[4], past_value[4], last[1], cos[2], sin[2];
    const OrtValue *total_value = NULL;
    const int32_t *total_length = NULL;
    TRY(tensor(api, context, QUERY, 3, query, (const void **)&c->query));
    TRY(tensor(api, context, KEY, 3, key, (const void **)&c->key));
    TRY(tensor(api, context, VALUE, 3, value, (const void **)&c->value));
    TRY(tensor(api, context, PAST_KEY, 4, past_key, (const void **)&c->past_key));
    TRY(tensor(api, context, PAST_VALUE, 4, past_value, (const void **)&c->past_value));
    TRY(tensor(api, context, LAST, 1, last, (const void **)&c->last));
    TRY(api->input(context, TOTAL, &total_value));
    TRY(api->tensor_data((OrtValue *)total_value, (void **)&total_length));
    TRY(tensor(api, context, COS, 2, cos, (const void **)&h->cos));
    TRY(tensor(api, context, SIN, 2, sin, (const void **)&h->sin));
    const int packed = !c->key;
    const int64_t heads = packed ? h->heads + 2 * h->kv_heads : h->heads;
    c->batch = query[0];
    c->new = query[1];
    if (query[2] < heads || query[2] % heads) return wrong(api, "the queries' width is no multiple of the heads");
    h->size = query[2] / heads;
    if (h->size % 8 || h->size > LARGEST_HEAD) return wrong(api, "a head's size is no multiple of 8, or more than 256");
    if (h->scale == 0) h->scale = 1 / sqrtf((float)h->size);
    c->query_width = query[2];
    c->key_width = packed ? query[2] : h->kv_heads * h->size;
    if (packed) {
        c->key = c->query + h->heads * h->size;
        c->value = c->key + h->kv_heads * h->size;
    } else if (!c->value || memcmp(key, value, sizeof key) || key[0] != c->batch || key[1] != c->new ||
               key[2] != c->key_width)
        return wrong(api, "keys, values and queries differ in their sizes");
    if (!c->past_key || !c->past_value || memcmp(past_key, past_value, sizeof past_key) || past_key[0] != c->batch ||
        past_key[1] != h->kv_heads || past_key[3] != h->size)
        return wrong(api, "the cache has other sizes than the keys");
    if (!c->last || last[0] != c->batch) return wrong(api, "the rows' lengths are missing");
    c->past_capacity = past_key[2];
    *total = *total_length;
    c->capacity = *total > c->past_capacity ? *total : c->past_capacity;
    c->first = c->new == *total;
    for (int64_t row = 0; row < c->batch; row++) {
        const int64_t past = past_of(c, row);
        if (past < 0 || past > c->past_capacity || past + c->new > c->capacity)
            return wrong(api, "a row's length does not fit its cache");
    }
    if (!h->rotates) return NULL;
    if (!h->cos || !h->sin || memcmp(cos, sin, sizeof cos) || 2 * cos[1] > h->size)
        return wrong(api, "the tables of positions do not fit the heads");
    h->positions = cos[0];
    h->pairs = cos[1];
    for (int64_t row = 0; row < c->batch; row++)
        if (past_of(c, row) + c->new > h->positions) return wrong(api, "a position is beyond the tables");
    return NULL;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
    const OrtApi *api = ((Kernel *)kernel)->api;
    Call c = {.heads = ((Kernel *)kernel)->heads};
    int64_t total = 0;
    OrtValue *output = NULL, *present_key = NULL, *present_value = NULL;
    TRY(read_inputs(api, context, &c, &total));
    const int64_t output_sizes[] = {c.batch, c.new, c.heads.heads * c.heads.size};
    const int64_t cache_sizes[] = {c.batch, c.heads.kv_heads, c.capacity, c.heads.size};
    TRY(api->output(context, OUTPUT, output_sizes, 3, &output));
    TRY(api->output(context, PRESENT_KEY, cache_sizes, 4, &present_key));
    TRY(api->output(context, PRESENT_VALUE, cache_sizes, 4, &present_value));
    if (c.batch * c.new == 0) return NULL;
    TRY(api->tensor_data(output, (void **)&c.output));
    TRY(api->tensor_data(present_key, (void **)&c.present_key));
    TRY(api->tensor_data(present_value, (void **)&c.present_value));
    c.tasks = (c.new * (c.heads.heads / c.heads.kv_heads) + TASK - 1) / TASK;
    const size_t pairs = (size_t)(c.batch * c.heads.kv_heads);
    if (c.tasks == 1) return api->parallel_for(context, store_and_answer, pairs, pairs, &c);
    TRY(api->parallel_for(context, store, pairs, pairs, &c));
    return api->parallel_for(context, answer, pairs * (size_t)c.tasks, pairs * (size_t)c.tasks, &c);
}

static const char *name(const OrtCustomOp *op) { return (void)op, "GroupQueryAttention"; }
static size_t input_count(const OrtCustomOp *op) { return (void)op, INPUTS; }
static size_t output_count(const OrtCustomOp *op) { return (void)op, OUTPUTS; }
static int input_type(const OrtCustomOp *op, size_t i) { return (void)op, i == LAST || i == TOTAL ? ORT_INT32 : ORT_FLOAT; }
static int input_kind(const OrtCustomOp *op, size_t i) {
    return (void)op, i == KEY || i == VALUE || i > TOTAL ? ORT_OPTIONAL : ORT_REQUIRED;
}

const OrtCustomOp group_query_attention = {
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
