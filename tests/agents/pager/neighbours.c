/* Pages that are written to all the time, and beside them pages with the same bytes that nobody writes to: if those that are written
 * to are compressed together with the others, the others come back wrong.
 *
 * uint64_t neighbours(memory, pages, seconds): how many of the steady pages were read and found wrong.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096, EVERY = 64, BURST = 2 };

struct neighbours {
    uint8_t *memory;
    size_t pages;
    uint8_t steady[PAGE], other[PAGE];
    int stop;
};

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void *write_on(void *argument) {
    struct neighbours *all = argument;
    for (size_t page = 0; !__atomic_load_n(&all->stop, __ATOMIC_RELAXED); page = (page + EVERY) % all->pages)
        for (int turn = 0; turn < BURST; turn++) {
            memcpy(all->memory + page * PAGE, all->other, PAGE);
            memcpy(all->memory + page * PAGE, all->steady, PAGE);
        }
    return NULL;
}

uint64_t neighbours(uint8_t *memory, size_t pages, double seconds) {
    static struct neighbours all;
    uint64_t state = 88172645463325252u, wrong = 0;
    all = (struct neighbours){.memory = memory, .pages = pages};
    for (size_t at = 0; at < 2 * PAGE; at++) { /* bytes that do not compress but by what was before */
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        (at < PAGE ? all.steady : all.other)[at % PAGE] = (uint8_t)(state >> 32);
    }
    for (size_t page = 0; page < pages; page++)
        memcpy(memory + page * PAGE, all.steady, PAGE);
    pthread_t writer;
    if (pthread_create(&writer, NULL, write_on, &all))
        return UINT64_MAX;
    double until = now() + seconds;
    for (size_t page = 0; now() < until; page = (page + 1) % pages)
        if (page % EVERY && memcmp(memory + page * PAGE, all.steady, PAGE))
            wrong++;
    __atomic_store_n(&all.stop, 1, __ATOMIC_RELAXED);
    pthread_join(writer, NULL);
    return wrong;
}
