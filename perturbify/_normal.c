/* Standard normal numbers, many at a time: Box and Muller's method on xoshiro128++.

   torch draws normal numbers on the CPU by one thread at 4 to 7 ns each, which is more than half of a noisy network's
   forward pass. Here LANES generators run side by side, so that the compiler keeps them in vector registers, and every
   block of numbers has generators of its own, seeded from the caller's seed and the block's place: the numbers depend on
   neither the number of threads nor, as no multiplication is fused with an addition, on the processor. */

#ifdef _WIN32
#error "No POSIX threads here: torch draws instead."
#endif

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define CHUNK (2 * LANES)
#define BLOCK 16384
#define MOST_THREADS 64

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef struct {
    uint32_t s[4][LANES];
} Lanes;

/* Steele, Lea and Flood (2014): SplitMix64, the seeding that xoshiro's authors recommend. */
static uint64_t splitmix(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void seed_lanes(Lanes *lanes, uint64_t seed, uint64_t block) {
    uint64_t mixed = block, state;
    state = seed ^ splitmix(&mixed);
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 4; word += 2) {
            uint64_t bits = splitmix(&state);
            lanes->s[word][lane] = (uint32_t)bits;
            lanes->s[word + 1][lane] = (uint32_t)(bits >> 32);
        }
}

/* Blackman and Vigna (2021): xoshiro128++, one step of every lane. */
static inline __attribute__((always_inline)) void step(Lanes *lanes, uint32_t *out) {
    for (int i = 0; i < LANES; i++) {
        uint32_t a = lanes->s[0][i], b = lanes->s[1][i], c = lanes->s[2][i], d = lanes->s[3][i];
        uint32_t sum = a + d;
        out[i] = ((sum << 7) | (sum >> 25)) + a;
        uint32_t shifted = b << 9;
        c ^= a;
        d ^= b;
        b ^= c;
        a ^= d;
        c ^= shifted;
        d = (d << 11) | (d >> 21);
        lanes->s[0][i] = a, lanes->s[1][i] = b, lanes->s[2][i] = c, lanes->s[3][i] = d;
    }
}

/* Natural logarithm of u in (0, 1], to 2e-7 of its value: u = m * 2^e, m in [1/sqrt 2, sqrt 2), and the series of
   ln((1 + t) / (1 - t)) for t = (m - 1) / (m + 1). */
static inline __attribute__((always_inline)) float logarithm(float u) {
    uint32_t bits;
    memcpy(&bits, &u, 4);
    int32_t exponent = (int32_t)(bits - 0x3F3504F3u) >> 23;
    bits -= (uint32_t)exponent << 23;
    float m;
    memcpy(&m, &bits, 4);
    float t = (m - 1.0f) / (m + 1.0f), q = t * t;
    float series = ((((2.0f / 9.0f) * q + 2.0f / 7.0f) * q + 2.0f / 5.0f) * q + 2.0f / 3.0f) * q + 2.0f;
    return (float)exponent * 0.693147180559945f + t * series;
}

/* CHUNK independent standard normal numbers. */
static inline __attribute__((always_inline)) void chunk(Lanes *lanes, float *out) {
    uint32_t a[LANES], b[LANES];
    step(lanes, a);
    step(lanes, b);
    for (int i = 0; i < LANES; i++) {
        float u = (float)(int32_t)((a[i] >> 8) + 1) * 0x1p-24f; /* in (0, 1], in steps of 2^-24, as torch has it */
        float radius = sqrtf(-2.0f * logarithm(u));
        /* An angle in [-pi/4, pi/4), and a quarter turn out of four. */
        float phi = (float)(int32_t)(b[i] << 2) * (float)(0x1p-32 * 1.57079632679489662), q = phi * phi;
        float sine = phi * (1.0f + q * (-1.0f / 6 + q * (1.0f / 120 + q * (-1.0f / 5040 + q * (1.0f / 362880)))));
        float cosine = 1.0f + q * (-0.5f + q * (1.0f / 24 + q * (-1.0f / 720 + q * (1.0f / 40320))));
        uint32_t swap = 0u - ((b[i] >> 30) & 1u), minus = b[i] & 0x80000000u, s, c, r;
        memcpy(&s, &sine, 4), memcpy(&c, &cosine, 4), memcpy(&r, &radius, 4);
        uint32_t x = ((c & ~swap) | (s & swap)) ^ minus, y = ((s & ~swap) | (c & swap)) ^ minus ^ (swap & 0x80000000u);
        float xf, yf;
        memcpy(&xf, &x, 4), memcpy(&yf, &y, 4);
        out[i] = radius * xf;
        out[LANES + i] = radius * yf;
    }
}

FOR_EACH_PROCESSOR
static void fill_block(float *out, size_t count, uint64_t seed, uint64_t block) {
    Lanes lanes;
    size_t i = 0;
    seed_lanes(&lanes, seed, block);
    for (; i + CHUNK <= count; i += CHUNK) chunk(&lanes, out + i);
    if (i < count) {
        float rest[CHUNK];
        chunk(&lanes, rest);
        memcpy(out + i, rest, (count - i) * sizeof(float));
    }
}

typedef struct {
    float *out;
    size_t count, first, last; /* blocks first to last - 1 */
    uint64_t seed;
} Share;

static void *fill_share(void *given) {
    Share *share = given;
    for (size_t block = share->first; block < share->last; block++) {
        size_t from = block * BLOCK, left = share->count - from;
        fill_block(share->out + from, left < BLOCK ? left : BLOCK, share->seed, block);
    }
    return NULL;
}

static PyObject *fill(PyObject *self, PyObject *args) {
    unsigned long long address, seed;
    Py_ssize_t count;
    int threads;
    if (!PyArg_ParseTuple(args, "KnKi", &address, &count, &seed, &threads)) return NULL;
    if (count < 0 || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "count must be at least 0, threads at least 1");
        return NULL;
    }
    size_t blocks = ((size_t)count + BLOCK - 1) / BLOCK, done = 0;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if ((size_t)threads > blocks) threads = blocks ? (int)blocks : 1;
    Share shares[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    int begun[MOST_THREADS] = {0};
    Py_BEGIN_ALLOW_THREADS
    for (int i = 0; i < threads; i++) {
        size_t upto = blocks * (size_t)(i + 1) / (size_t)threads;
        shares[i] = (Share){(float *)(uintptr_t)address, (size_t)count, done, upto, seed};
        done = upto;
        /* The last share is this thread's own; where no thread can be had, its share is as well. */
        begun[i] = i + 1 < threads && pthread_create(&ids[i], NULL, fill_share, &shares[i]) == 0;
    }
    for (int i = threads - 1; i >= 0; i--)
        if (!begun[i]) fill_share(&shares[i]);
    for (int i = 0; i < threads; i++)
        if (begun[i]) pthread_join(ids[i], NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fill", fill, METH_VARARGS,
     "fill(address, count, seed, threads)\n\n"
     "Writes count independent standard normal float32 numbers to memory at an address. They follow from the seed alone."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_normal", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__normal(void) { return PyModule_Create(&module); }
