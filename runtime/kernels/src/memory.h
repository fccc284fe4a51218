/* Memory for weights: large pieces in huge pages, shared by many weights. */
#pragma once
#include <stddef.h>

/* Aligned to 64 bytes; null where there is none. Any thread may call either. */
void *weights_alloc(size_t size);
void weights_free(void *memory);

/* Tell the system that this memory will hardly be read again: pages that stand in a file need not stay. */
void weights_forget(const void *memory, size_t size);
