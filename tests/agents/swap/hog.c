/* A program that uses memory and trusts nobody: every page holds what can be checked word by word.
 *
 *   hog MIB SECONDS ORDER [write] [thp] [passes=N] [warm=N]
 *
 * ORDER is seq or rnd. It fills MIB of anonymous memory, then touches page after page for SECONDS (or N passes over all of
 * them), checks all 512 words of each, and with `write` fills it anew with its next generation. With `thp` it asks for
 * huge pages. At the end it prints one JSON object: touches, those that were slow (that waited for a page), their latencies,
 * and how many pages were bad. A bad page is also told on standard error. Exit status: 0, or 2 if any was bad.
 *
 * A line "filled" on standard output says when the memory is there; SIGUSR1 ends it early, as if its time were over.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define PAGE 4096
#define WORDS (PAGE / 8)
#define HUGE_PAGE (2ul << 20)
#define SLOW_NS 3000
#define STEP_NS 500
#define BUCKETS 20000 /* up to 10 ms in half microseconds; the last takes what is slower */

static volatile sig_atomic_t over;

static void stop(int number) { (void)number; over = 1; }

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* What word k of a page is: about a third random, so that it compresses as real data do. */
static void fill(uint64_t *page, uint64_t index, uint64_t generation) {
    uint64_t state = (index + 1) * 0x9E3779B97F4A7C15ull ^ (generation + 1) * 0xD1B54A32D192ED03ull;
    for (int k = 2; k < WORDS; k++) page[k] = k % 3 ? index >> 4 ^ generation : next(&state);
    page[0] = index;
    page[1] = generation;
}

static int check(const uint64_t *page, uint64_t index, uint64_t generation) {
    uint64_t state = (index + 1) * 0x9E3779B97F4A7C15ull ^ (generation + 1) * 0xD1B54A32D192ED03ull;
    if (page[0] != index || page[1] != generation) return 0;
    for (int k = 2; k < WORDS; k++)
        if (page[k] != (k % 3 ? index >> 4 ^ generation : next(&state))) return 0;
    return 1;
}

static uint64_t quantile(const uint64_t *counts, uint64_t total, double share) {
    uint64_t seen = 0;
    for (int k = 0; k < BUCKETS; k++) {
        seen += counts[k];
        if (seen && (double)seen >= share * (double)total) return (uint64_t)k * STEP_NS;
    }
    return (uint64_t)BUCKETS * STEP_NS;
}

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    size_t pages = strtoul(argv[1], 0, 10) * 256;
    double seconds = strtod(argv[2], 0);
    int random = !strcmp(argv[3], "rnd"), write = 0, thp = 0;
    uint64_t passes = 0, warm = 0;
    for (int k = 4; k < argc; k++) {
        if (!strcmp(argv[k], "write")) write = 1;
        else if (!strcmp(argv[k], "thp")) thp = 1;
        else if (!strncmp(argv[k], "passes=", 7)) passes = strtoull(argv[k] + 7, 0, 10);
        else if (!strncmp(argv[k], "warm=", 5)) warm = strtoull(argv[k] + 5, 0, 10);
        else return 64;
    }
    signal(SIGUSR1, stop);
    size_t size = pages * PAGE;
    char *region = mmap(0, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *generations = calloc(pages, sizeof *generations);
    static uint64_t counts[BUCKETS];
    if (region == MAP_FAILED || !generations) return 1;
    region = (char *)(((uintptr_t)region + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    if (thp) madvise(region, size, MADV_HUGEPAGE);
    uint64_t begun = now_ns();
    for (size_t index = 0; index < pages; index++) fill((uint64_t *)(region + index * PAGE), index, 0);
    double fill_seconds = (double)(now_ns() - begun) / 1e9;
    puts("filled");
    fflush(stdout);

    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    uint64_t touches = 0, slow = 0, slow_ns = 0, longest = 0, bad = 0, state = 88172645463325252ull;
    uint64_t end = now_ns() + (uint64_t)(seconds * 1e9);
    begun = now_ns();
    for (uint64_t at = 0; !over && (passes ? at < passes * pages : now_ns() < end); at++) {
        size_t index = random ? next(&state) % pages : at % pages;
        uint64_t *page = (uint64_t *)(region + index * PAGE);
        uint64_t from = now_ns();
        (void)*(volatile uint64_t *)page;
        uint64_t took = now_ns() - from;
        if (took > SLOW_NS && at >= warm) {
            slow++;
            slow_ns += took;
            counts[took / STEP_NS < BUCKETS ? took / STEP_NS : BUCKETS - 1]++;
            if (took > longest) longest = took;
        }
        touches++;
        if (!check(page, index, generations[index])) {
            bad++;
            fprintf(stderr, "bad page %zu: it says index %llu generation %llu, and should be of generation %u\n", index,
                    (unsigned long long)page[0], (unsigned long long)page[1], generations[index]);
            fill(page, index, generations[index]);
        }
        if (write) fill(page, index, ++generations[index]);
    }
    double took = (double)(now_ns() - begun) / 1e9;
    getrusage(RUSAGE_SELF, &after);
    printf("{\"pages\": %zu, \"touches\": %llu, \"bad\": %llu, \"seconds\": %.3f, \"fill_seconds\": %.3f, \"slow\": %llu, "
           "\"slow_us\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"major_faults\": %ld}\n",
           pages, (unsigned long long)touches, (unsigned long long)bad, took, fill_seconds, (unsigned long long)slow,
           slow ? (double)slow_ns / 1e3 / (double)slow : 0.0, (double)quantile(counts, slow, 0.5) / 1e3,
           (double)quantile(counts, slow, 0.9) / 1e3, (double)quantile(counts, slow, 0.99) / 1e3, (double)longest / 1e3,
           after.ru_majflt - before.ru_majflt);
    return bad ? 2 : 0;
}
