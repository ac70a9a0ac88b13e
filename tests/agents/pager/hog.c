/* A hog that checks every byte it wrote.
 *
 * As a library: hog(memory, bytes, seconds, threads, pattern, seed, &report) works on memory that somebody else has made.
 * As a program:  hog BYTES SECONDS THREADS PATTERN SEED  works on memory from malloc.
 * PATTERN: 0 random, 1 sequential, 2 both in turn.
 *
 * What it keeps of the memory lies outside of it: for each page the number of its last writing, from which every byte follows,
 * and for each thread and page a counter that this thread alone writes, under no lock, so that a write that comes while the
 * page is taken away, and is lost, is seen.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8, LOCKS = 4096, MOST_THREADS = 16, BUCKETS = 64 };

struct report {
    uint64_t operations, bad, writes, first_bad_page;
    uint64_t p50_ns, p99_ns, longest_ns;
};

struct hog {
    uint8_t *memory;
    size_t pages;
    int threads, pattern;
    uint64_t seed, until_ns;
    uint64_t *written;                  /* of each page: the number of its last writing; 0 = none */
    uint32_t *counters[MOST_THREADS];   /* of each thread, of each page: its lock-free counter */
    pthread_mutex_t locks[LOCKS];
};

struct worker {
    struct hog *hog;
    pthread_t thread;
    int number;
    uint64_t operations, bad, writes, first_bad_page, longest_ns, buckets[BUCKETS];
};

static uint64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

/* Ends the hog early. */
volatile int hog_stop;

/* The word at a place of a page after a given writing; pages differ in how well they compress. */
static uint64_t word(uint64_t page, uint64_t writing, size_t at) {
    uint64_t kind = mix(page * 31 + writing) % 4;
    if (kind == 0) return mix(page ^ writing << 32);                        /* one word throughout */
    if (kind == 1) return mix(writing * 1000003 + page * 521 + at);         /* noise */
    if (kind == 2) return at % 8 ? page : mix(writing + at);                /* compresses well */
    return (at / 16) * 0x0101010101010101u + writing + page;                /* text-like */
}

/* The first MOST_THREADS / 2 words of a page hold the threads' counters, 4 bytes each; the rest is the page's own. */
static const size_t own = MOST_THREADS / 2;

static void fill(struct hog *hog, size_t page, uint64_t writing) {
    uint64_t *words = (uint64_t *)(hog->memory + page * PAGE);
    for (size_t at = own; at < WORDS; at++) words[at] = word(page, writing, at);
    hog->written[page] = writing;
}

static int right(struct hog *hog, size_t page) {
    const uint64_t *words = (const uint64_t *)(hog->memory + page * PAGE);
    uint64_t writing = hog->written[page];
    for (size_t at = own; at < WORDS; at++)
        if (words[at] != (writing ? word(page, writing, at) : 0)) return 0;
    return 1;
}

static void note_bad(struct worker *worker, size_t page) {
    if (!worker->bad++) worker->first_bad_page = page;
}

static void count(struct worker *worker, size_t page) {
    volatile uint32_t *mine = (volatile uint32_t *)(worker->hog->memory + page * PAGE) + worker->number;
    uint32_t *expected = &worker->hog->counters[worker->number][page];
    for (int times = 0; times < 3; times++) {
        if (*mine != *expected) note_bad(worker, page);
        *mine = ++*expected;
    }
}

static void *work(void *argument) {
    struct worker *worker = argument;
    struct hog *hog = worker->hog;
    uint64_t state = mix(hog->seed * 977 + (uint64_t)worker->number + 1);
    size_t next = hog->pages / (size_t)hog->threads * (size_t)worker->number;
    while (!hog_stop && now_ns() < hog->until_ns) {
        state = mix(state + 0x9e3779b97f4a7c15u);
        int sequential = hog->pattern == 1 || (hog->pattern == 2 && (worker->operations / 4096) % 2);
        size_t page = sequential ? next : (size_t)(state % hog->pages);
        next = (next + 1) % hog->pages;
        uint64_t begun = now_ns();
        if (state >> 60 == 0) {
            count(worker, page);
        } else {
            pthread_mutex_t *lock = &hog->locks[page % LOCKS];
            pthread_mutex_lock(lock);
            if (!right(hog, page)) note_bad(worker, page);
            if (state >> 62) {
                fill(hog, page, mix(state) | 1);
                worker->writes++;
            }
            pthread_mutex_unlock(lock);
        }
        uint64_t took = now_ns() - begun;
        int bucket = 0;
        while (bucket < BUCKETS - 1 && took >> bucket > 1) bucket++;
        worker->buckets[bucket]++;
        if (took > worker->longest_ns) worker->longest_ns = took;
        worker->operations++;
    }
    return NULL;
}

static uint64_t quantile(const uint64_t *buckets, uint64_t total, double part) {
    uint64_t seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += buckets[bucket];
        if ((double)seen >= part * (double)total) return (uint64_t)2 << bucket;
    }
    return 0;
}

int hog(uint8_t *memory, size_t bytes, double seconds, int threads, int pattern, uint64_t seed, struct report *report) {
    struct hog *hog = calloc(1, sizeof *hog);
    hog->memory = memory;
    hog->pages = bytes / PAGE;
    hog->threads = threads;
    hog->pattern = pattern;
    hog->seed = seed;
    hog->written = calloc(hog->pages, sizeof *hog->written);
    for (int at = 0; at < LOCKS; at++) pthread_mutex_init(&hog->locks[at], NULL);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    hog->until_ns = now_ns() + (uint64_t)(seconds * 1e9);
    for (int at = 0; at < threads; at++) {
        hog->counters[at] = calloc(hog->pages, sizeof *hog->counters[at]);
        workers[at].hog = hog;
        workers[at].number = at;
        pthread_create(&workers[at].thread, NULL, work, &workers[at]);
    }
    uint64_t buckets[BUCKETS] = {0};
    memset(report, 0, sizeof *report);
    for (int at = 0; at < threads; at++) {
        struct worker *worker = &workers[at];
        pthread_join(worker->thread, NULL);
        if (worker->bad && !report->bad) report->first_bad_page = worker->first_bad_page;
        report->operations += worker->operations;
        report->writes += worker->writes;
        report->bad += worker->bad;
        if (worker->longest_ns > report->longest_ns) report->longest_ns = worker->longest_ns;
        for (int bucket = 0; bucket < BUCKETS; bucket++) buckets[bucket] += worker->buckets[bucket];
    }
    /* At the end, every page once more. */
    for (size_t page = 0; page < hog->pages; page++) {
        const uint32_t *found = (const uint32_t *)(memory + page * PAGE);
        int good = right(hog, page);
        for (int at = 0; at < threads; at++) good &= found[at] == hog->counters[at][page];
        if (!good && !report->bad++) report->first_bad_page = page;
    }
    report->p50_ns = quantile(buckets, report->operations, 0.5);
    report->p99_ns = quantile(buckets, report->operations, 0.99);
    for (int at = 0; at < threads; at++) free(hog->counters[at]);
    free(hog->written);
    free(workers);
    free(hog);
    return report->bad ? 1 : 0;
}

#ifndef LIBRARY
int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "hog BYTES SECONDS THREADS PATTERN SEED\n");
        return 2;
    }
    size_t bytes = strtoull(words[1], NULL, 10);
    uint8_t *memory = calloc(bytes, 1);
    if (!memory) return 3;
    struct report report;
    int status = hog(memory, bytes, atof(words[2]), atoi(words[3]), atoi(words[4]), strtoull(words[5], NULL, 10), &report);
    printf("{\"operations\": %" PRIu64 ", \"writes\": %" PRIu64 ", \"bad\": %" PRIu64 ", \"first_bad_page\": %" PRIu64
           ", \"p50_ns\": %" PRIu64 ", \"p99_ns\": %" PRIu64 ", \"longest_ns\": %" PRIu64 "}\n",
           report.operations, report.writes, report.bad, report.first_bad_page, report.p50_ns, report.p99_ns, report.longest_ns);
    free(memory);
    return status;
}
#endif
