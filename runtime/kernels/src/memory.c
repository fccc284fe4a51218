#include "memory.h"

#include <stdint.h>
#include <stdlib.h>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

/* A page of 2 MiB for each weight would waste one half on average; so weights lie one behind the other in large pieces,
 * and a piece goes back when the last of its weights does. What is not written yet takes no memory. */
enum { HUGE_PAGE = 1 << 21, LINE = 64 };
static const size_t PIECE = (size_t)32 << 20;

typedef struct Piece {
    struct Piece *next;
    char *begin, *at, *end;
    void *mapped;
    size_t mapped_size, weights;
} Piece;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Piece *pieces;

static Piece *new_piece(size_t size) {
    Piece *piece = calloc(1, sizeof *piece);
    if (!piece) return NULL;
    size = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    piece->mapped_size = size + HUGE_PAGE;
    piece->mapped = mmap(NULL, piece->mapped_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (piece->mapped == MAP_FAILED) return free(piece), NULL;
    piece->begin = (char *)(((uintptr_t)piece->mapped + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    piece->at = piece->begin;
    piece->end = piece->begin + size;
#ifdef MADV_HUGEPAGE
    madvise(piece->begin, size, MADV_HUGEPAGE); /* refused where there are none: small pages do as well */
#endif
    piece->next = pieces;
    return pieces = piece;
}

void *weights_alloc(size_t size) {
    size = (size + LINE - 1) / LINE * LINE;
    pthread_mutex_lock(&lock);
    Piece *piece = pieces;
    while (piece && (size_t)(piece->end - piece->at) < size) piece = piece->next;
    if (!piece) piece = new_piece(size > PIECE ? size : PIECE);
    void *memory = NULL;
    if (piece) {
        memory = piece->at;
        piece->at += size;
        piece->weights++;
    }
    pthread_mutex_unlock(&lock);
    return memory;
}

void weights_free(void *memory) {
    if (!memory) return;
    pthread_mutex_lock(&lock);
    for (Piece **link = &pieces; *link; link = &(*link)->next) {
        Piece *piece = *link;
        if ((char *)memory < piece->begin || (char *)memory >= piece->end) continue;
        if (--piece->weights == 0) {
            *link = piece->next;
            munmap(piece->mapped, piece->mapped_size);
            free(piece);
        }
        break;
    }
    pthread_mutex_unlock(&lock);
}

void weights_forget(const void *memory, size_t size) {
#ifdef MADV_PAGEOUT
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page, end = ((uintptr_t)memory + size) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_PAGEOUT);
#else
    (void)memory, (void)size;
#endif
}

#else

void *weights_alloc(size_t size) {
#if defined(_WIN32)
    return _aligned_malloc(size, 64);
#else
    return aligned_alloc(64, (size + 63) / 64 * 64);
#endif
}

void weights_free(void *memory) {
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

void weights_forget(const void *memory, size_t size) { (void)memory, (void)size; }

#endif
