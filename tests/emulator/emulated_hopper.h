/*
 * The instructions of cuda/hopper.cuh in C++, by PTX's description of them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * What runs asynchronously runs as late as it may: a tensor copy when
 * somebody waits for its barrier, a product when its group is waited for; and
 * until then what it writes holds NaNs. So what is read too early, and what is
 * overwritten before a product has read it, shows. Registers of an operand are
 * taken when the product is issued.
 */
#ifndef CV_EMULATED_HOPPER_H
#define CV_EMULATED_HOPPER_H

#include <map>
#include <vector>

#include "cuda_bf16.h"

/* ---- tensor maps ---- */

typedef struct CvTensorForm {
    int swizzle, bytes; /* swizzled within so many bytes */
} CvTensorForm;

static const CvTensorForm cv_form_bf16 = { 128, 2 };

typedef struct CvTensorMap {
    const unsigned char *base;
    CvTensorForm form;
    int n_dims;
    int64_t dim[4], step[3];
    int box[4];
} CvTensorMap;

static inline int cv_tensor_map_of(CvCuda *, CvTensorMap *map,
                                   CvTensorForm form, int n_dims,
                                   const void *base, const int64_t *dim,
                                   const int64_t *step, const int *box)
{
    map->base = (const unsigned char *)base;
    map->form = form;
    map->n_dims = n_dims;
    map->dim[3] = map->box[3] = 1;
    map->step[2] = 0;
    for (int i = 0; i < n_dims; i++) {
        map->dim[i] = dim[i];
        map->box[i] = box[i];
        if (box[i] < 1 || box[i] > 256 || dim[i] < 1)
            emulator_fail("tensor map: box or size of dimension %d", i);
    }
    for (int i = 0; i + 1 < n_dims; i++) {
        map->step[i] = step[i];
        if (step[i] * form.bytes % 16)
            emulator_fail("tensor map: step of dimension %d", i + 1);
    }
    if ((uintptr_t)base % 16 || box[0] * form.bytes > form.swizzle)
        emulator_fail("tensor map: address or rows of over %d bytes",
                      form.swizzle);
    return 0;
}

static inline int cv_tensor_map_n(CvCuda *cuda, CvTensorMap *map, int n_dims,
                                  const void *base, const int64_t *dim,
                                  const int64_t *step, const int *box)
{
    return cv_tensor_map_of(cuda, map, cv_form_bf16, n_dims, base, dim, step,
                            box);
}

static inline int cv_tensor_map(CvCuda *cuda, CvTensorMap *map,
                                const void *base, const int64_t dim[3],
                                const int64_t step[2], const int box[3])
{
    return cv_tensor_map_n(cuda, map, 3, base, dim, step, box);
}

static inline size_t emulator_box_bytes(const CvTensorMap *m)
{
    return (size_t)m->form.swizzle * m->box[1] * m->box[2] * m->box[3];
}

/* A 16-byte chunk's place among rows of 128 or 64 bytes, by its address. */
static inline unsigned char *emulator_swizzle(uintptr_t address,
                                              int row_bytes = 128)
{
    return (unsigned char *)(address ^ ((address >> 7 &
                                         (row_bytes / 16 - 1)) << 4));
}

/* ---- barriers ---- */

struct EmulatorBarrier {
    int16_t count, pending;
    int32_t bytes : 31; /* expected less arrived */
    uint32_t phase : 1;
};
static_assert(sizeof(EmulatorBarrier) == 8, "as large as PTX's");

struct EmulatorTensorCopy {
    unsigned char *dst;
    CvTensorMap map;
    int x, y, z, f;
    const void *src; /* bytes as they lie, not a tensor's */
    uint32_t bytes;
};

inline std::map<EmulatorBarrier *, std::vector<EmulatorTensorCopy>>
    emulator_tensor_copies;

static inline void emulator_end_phase(EmulatorBarrier *b)
{
    if (b->pending == 0 && b->bytes == 0) {
        b->phase ^= 1;
        b->pending = b->count;
    }
}

static inline void emulator_copy_tensor(const EmulatorTensorCopy *c)
{
    const CvTensorMap *m = &c->map;
    uintptr_t row = (uintptr_t)c->dst;

    if (c->src) {
        memcpy(c->dst, c->src, c->bytes);
        return;
    }
    for (int f = c->f; f < c->f + m->box[3]; f++)
        for (int z = c->z; z < c->z + m->box[2]; z++)
            for (int y = c->y; y < c->y + m->box[1];
                 y++, row += m->form.swizzle)
                for (int i = 0; i < m->box[0]; i++) {
                    const int x = c->x + i, bytes = m->form.bytes;
                    const int inside = x >= 0 && x < m->dim[0] && y >= 0 &&
                                       y < m->dim[1] && z >= 0 &&
                                       z < m->dim[2] && f >= 0 &&
                                       f < m->dim[3];
                    unsigned char *to = emulator_swizzle(row + bytes * i,
                                                         m->form.swizzle);

                    if (inside)
                        memcpy(to, m->base + bytes *
                               (f * m->step[2] + z * m->step[1] +
                                y * m->step[0] + x), bytes);
                    else
                        memset(to, 0, bytes);
                }
}

static inline void emulator_tma(void *shared, const CvTensorMap *map,
                                uint64_t *barrier, int n_dims, int x, int y,
                                int z, int f)
{
    if ((uintptr_t)shared % 1024)
        emulator_fail("tensor copy to %p: not 1024-byte aligned", shared);
    if (map->box[0] != 64 || map->n_dims != n_dims)
        emulator_fail("tensor copy: rows of %d, %d dimensions", map->box[0],
                      map->n_dims);
    memset(shared, 0xff, emulator_box_bytes(map));
    emulator_tensor_copies[(EmulatorBarrier *)barrier].push_back(
        { (unsigned char *)shared, *map, x, y, z, f, nullptr,
          (uint32_t)emulator_box_bytes(map) });
}

static inline void cv_tma_load(void *shared, const CvTensorMap *map,
                               uint64_t *barrier, int x, int y, int z)
{
    emulator_tma(shared, map, barrier, 3, x, y, z, 0);
}

static inline void cv_tma_load_4d(void *shared, const CvTensorMap *map,
                                  uint64_t *barrier, int x, int y, int z,
                                  int f)
{
    emulator_tma(shared, map, barrier, 4, x, y, z, f);
}

static inline void cv_tma_prefetch(const CvTensorMap *) {}

static inline void cv_mbarrier_init(uint64_t *barrier, int count)
{
    EmulatorBarrier b = { (int16_t)count, (int16_t)count, 0, 0 };

    memcpy(barrier, &b, sizeof(b));
    emulator_tensor_copies[(EmulatorBarrier *)barrier].clear();
}

static inline void cv_mbarrier_init_done(void) {}

static inline void cv_mbarrier_arrive(uint64_t *barrier)
{
    EmulatorBarrier *b = (EmulatorBarrier *)barrier;

    uint32_t phase = b->phase;

    if (--b->pending < 0)
        emulator_fail("mbarrier: more arrivals than %d", b->count);
    emulator_end_phase(b);
    /* What was waiting may be quicker than what arrived: it finds out who
     * arrives before it has done what others wait for. */
    if (b->phase != phase)
        emulator_give_way(b);
}

static inline void cv_mbarrier_expect(uint64_t *barrier, uint32_t bytes)
{
    EmulatorBarrier *b = (EmulatorBarrier *)barrier;

    b->bytes += (int32_t)bytes;
    cv_mbarrier_arrive(barrier);
}

struct EmulatorParity {
    EmulatorBarrier *b;
    int parity;
};

static inline int emulator_phase_ended(void *cookie)
{
    EmulatorParity *p = (EmulatorParity *)cookie;
    EmulatorBarrier *b = p->b;
    std::vector<EmulatorTensorCopy> copies;

    copies.swap(emulator_tensor_copies[b]);
    for (const EmulatorTensorCopy &c : copies) {
        emulator_copy_tensor(&c);
        b->bytes -= (int32_t)c.bytes;
        emulator_end_phase(b);
    }
    return (int)b->phase != p->parity;
}

static inline void cv_mbarrier_wait(uint64_t *barrier, int parity,
                                    EMULATOR_HERE)
{
    EmulatorParity p = { (EmulatorBarrier *)barrier, parity };

    if (parity != 0 && parity != 1)
        emulator_fail("mbarrier: parity %d", parity);
    emulator_wait_until(emulator_phase_ended, &p,
                        EMULATOR_AT("mbarrier wait"));
}

/* A named barrier: those who wait, wait for its next generation. */
struct EmulatorNamed {
    int arrived, generation;
};
inline EmulatorNamed emulator_named[16];

struct EmulatorGeneration {
    EmulatorNamed *named;
    int generation;
};

static inline int emulator_next_generation(void *cookie)
{
    EmulatorGeneration *g = (EmulatorGeneration *)cookie;

    return g->named->generation != g->generation;
}

static inline int emulator_name(int id, int threads)
{
    EmulatorNamed *n = &emulator_named[id];
    int generation = n->generation;

    if (id < 1 || id > 15 || threads % 32)
        emulator_fail("named barrier %d of %d threads", id, threads);
    if (++n->arrived == threads) {
        n->arrived = 0;
        n->generation++;
    }
    return generation;
}

static inline void cv_named_arrive(int id, int threads)
{
    emulator_name(id, threads);
}

static inline void cv_named_wait(int id, int threads, EMULATOR_HERE)
{
    int generation = emulator_name(id, threads);
    EmulatorGeneration g = { &emulator_named[id], generation };

    emulator_wait_until(emulator_next_generation, &g,
                        EMULATOR_AT("named barrier"));
}

/* ---- registers ---- */

/* What warps of a block have asked for. Hardware has no more than a block began
 * with, all registers shared out in eights where it is alone; with more, taking
 * waits for ever. */
struct EmulatorRegisters {
    int64_t block; /* the number of it */
    int of[32];
};
inline EmulatorRegisters emulator_registers;

static inline void emulator_set_registers(int n)
{
    EmulatorRegisters *r = &emulator_registers;
    const int threads = (int)blockDim.x;
    int all = 0;

    if (r->block != emulator_counts.blocks)
        *r = { emulator_counts.blocks, {} };
    r->of[threadIdx.x / 32] = n;
    for (int i = 0; i < 32; i++)
        all += r->of[i] * 32;
    if (all > 65536 / threads / 8 * 8 * threads)
        emulator_fail("setmaxnreg: %d registers of %d threads", all, threads);
}

template <int n> static inline void cv_registers_give(void)
{
    static_assert(n >= 24 && n <= 256 && n % 8 == 0, "setmaxnreg");
    emulator_set_registers(n);
}

template <int n> static inline void cv_registers_take(void)
{
    static_assert(n >= 24 && n <= 256 && n % 8 == 0, "setmaxnreg");
    emulator_set_registers(n);
}

/* ---- products ---- */

static inline uint64_t cv_wgmma_operand(const void *p, int group,
                                        int further_on)
{
    size_t at = (size_t)((const char *)p - (const char *)emulator_shared());

    if (at % 16 || at >> 18 || group % 16 || further_on < 0)
        emulator_fail("wgmma: operand at %zu", at);
    return (uint64_t)(at >> 4) | (uint64_t)(further_on >> 4) << 16 |
           (uint64_t)(group >> 4) << 32 | (uint64_t)1 << 62;
}

/* The 16 elements of an operand's row or column i. */
static inline void emulator_elements(float out[16], uint64_t operand, int i,
                                     int transposed)
{
    uintptr_t start = (uintptr_t)emulator_shared() +
                      ((operand & 0x3fff) << 4);
    uintptr_t further_on = (operand >> 16 & 0x3fff) << 4;
    uintptr_t group = (operand >> 32 & 0x3fff) << 4;
    cv_bf16 v[16];

    if (operand >> 62 != 1)
        emulator_fail("wgmma: not swizzled by 128 bytes");
    if (transposed) {
        start += i / 64 * further_on + i % 64 * 2;
        for (int k = 0; k < 16; k++)
            memcpy(&v[k], emulator_swizzle(start + k / 8 * group +
                                           k % 8 * 128), 2);
    } else {
        start += i / 8 * group + i % 8 * 128;
        for (int k = 0; k < 16; k += 8)
            memcpy(&v[k], emulator_swizzle(start + k * 2), 16);
    }
    for (int k = 0; k < 16; k++)
        out[k] = __bfloat162float(v[k]);
}

/* Arithmetic on registers, which sanitizers would make many times as slow. */
__attribute__((no_sanitize("address", "undefined"), noinline))
static float emulator_dot(const float a[16], const float b[16], float sum)
{
    for (int k = 0; k < 16; k++)
        sum += a[k] * b[k];
    return sum;
}

/* A product under way, for one thread. */
struct EmulatorWgmma {
    float *d;
    std::vector<float> old; /* d before; until it is known: empty */
    int n, transposed, from_registers, add, row, column;
    uint64_t a_operand, b_operand;
    float a[2][16]; /* rows row and row + 8 */
    void (*finish)(EmulatorWgmma *); /* of 8-bit numbers */
    unsigned char bytes[2][32];
};

/* Of one thread: groups of products under way; the last is not committed. */
inline std::map<unsigned, std::vector<std::vector<EmulatorWgmma>>>
    emulator_wgmmas;

static inline std::vector<std::vector<EmulatorWgmma>> &emulator_groups(void)
{
    std::vector<std::vector<EmulatorWgmma>> &g =
        emulator_wgmmas[threadIdx.x];

    if (g.empty())
        g.resize(1);
    return g;
}

struct EmulatorOperand {
    uint32_t a[4];
    float out[2][16];
};

/* All lanes get their two rows of a[16, 16]. */
static inline void emulator_gather_a(void **lanes, uint32_t)
{
    float a[16][16];

    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 2; e++) {
                uint16_t bits = (uint16_t)(
                    ((EmulatorOperand *)lanes[l])->a[i] >> (16 * e));
                cv_bf16 v;

                memcpy(&v, &bits, 2);
                a[l / 4 + i % 2 * 8][l % 4 * 2 + i / 2 * 8 + e] =
                    __bfloat162float(v);
            }
    for (int l = 0; l < 32; l++)
        for (int h = 0; h < 2; h++)
            memcpy(((EmulatorOperand *)lanes[l])->out[h], a[l / 4 + h * 8],
                   sizeof(a[0]));
}

static inline void emulator_issue(float *d, int n, EmulatorWgmma w)
{
    std::vector<std::vector<EmulatorWgmma>> &groups = emulator_groups();
    int under_way = 0;

    for (const std::vector<EmulatorWgmma> &g : groups)
        for (const EmulatorWgmma &other : g)
            under_way |= other.d == d;
    w.d = d;
    w.n = n;
    w.row = (int)threadIdx.x % 128 / 32 * 16 + (int)threadIdx.x % 32 / 4;
    w.column = (int)threadIdx.x % 4 * 2;
    if (!under_way)
        w.old.assign(d, d + n / 2);
    for (int i = 0; i < n / 2; i++)
        d[i] = NAN;
    groups.back().push_back(w);
}

static inline void emulator_finish(EmulatorWgmma *w)
{
    float a[2][16], b[16];

    if (!w->old.empty())
        memcpy(w->d, w->old.data(), w->old.size() * sizeof(float));
    if (w->finish) {
        w->finish(w);
        return;
    }
    for (int h = 0; h < 2; h++) {
        if (w->from_registers)
            memcpy(a[h], w->a[h], sizeof(a[h]));
        else
            emulator_elements(a[h], w->a_operand, w->row + h * 8, 0);
    }
    /* Rows h of columns 2 by 2: a column serves both. */
    for (int c = 0; c < w->n / 4; c++) {
        emulator_elements(b, w->b_operand, c / 2 * 8 + w->column + c % 2,
                          w->transposed);
        for (int h = 0; h < 2; h++) {
            float *d = &w->d[c / 2 * 4 + h * 2 + c % 2];

            *d = emulator_dot(a[h], b, w->add ? *d : 0);
        }
    }
}

/* Give what a product left to the next that adds to it, and to nobody else. */
static inline void emulator_pass_on(
    const EmulatorWgmma &w, std::vector<EmulatorWgmma> *same, size_t from,
    std::vector<std::vector<EmulatorWgmma>> &later)
{
    EmulatorWgmma *next = nullptr;

    for (size_t i = from; i < same->size() && !next; i++)
        if ((*same)[i].d == w.d)
            next = &(*same)[i];
    for (std::vector<EmulatorWgmma> &group : later)
        for (EmulatorWgmma &other : group)
            if (!next && other.d == w.d)
                next = &other;
    if (!next)
        return;
    next->old.assign(w.d, w.d + w.n / 2);
    for (int i = 0; i < w.n / 2; i++)
        w.d[i] = NAN;
}

static inline void cv_wgmma_fence(EMULATOR_HERE)
{
    emulator_collective(emulator_nothing, nullptr, 0xffffffffu,
                        EMULATOR_AT("wgmma.fence"));
}

static inline void cv_wgmma_commit(void)
{
    std::vector<std::vector<EmulatorWgmma>> &groups = emulator_groups();

    groups.emplace_back();
}

template <int n> static inline void cv_wgmma_wait(EMULATOR_HERE)
{
    emulator_collective(emulator_nothing, nullptr, 0xffffffffu,
                        EMULATOR_AT("wgmma.wait_group"));
    std::vector<std::vector<EmulatorWgmma>> &groups = emulator_groups();

    while (groups.size() > (size_t)n + 1) {
        std::vector<EmulatorWgmma> done;

        done.swap(groups.front());
        groups.erase(groups.begin());
        for (size_t i = 0; i < done.size(); i++) {
            emulator_finish(&done[i]);
            emulator_pass_on(done[i], &done, i + 1, groups);
        }
    }
    /* A product ends for all lanes: none goes on while others' is under way. */
    emulator_collective(emulator_nothing, nullptr, 0xffffffffu,
                        EMULATOR_AT("end of wgmma.wait_group"));
}

template <int n> static inline void cv_wgmma_hold(float (&)[n]) {}

/* Both operands in shared memory. finish: of other types than bf16, or NULL. */
static inline void emulator_product(float *d, int n, uint64_t a, uint64_t b,
                                    int add, void (*finish)(EmulatorWgmma *),
                                    EmulatorPlace place)
{
    EmulatorWgmma w = {};

    emulator_collective(emulator_nothing, nullptr, 0xffffffffu, place);
    w.a_operand = a;
    w.b_operand = b;
    w.add = add;
    w.finish = finish;
    emulator_issue(d, n, w);
}

static inline void cv_wgmma_n176(float d[88], uint64_t a, uint64_t b, int add,
                                 EMULATOR_HERE)
{
    emulator_product(d, 176, a, b, add, nullptr, EMULATOR_AT("wgmma"));
}

template <int kN>
static inline void cv_wgmma_add(float *d, uint64_t a, uint64_t b,
                                EMULATOR_HERE)
{
    emulator_product(d, kN, a, b, 1, nullptr, EMULATOR_AT("wgmma"));
}

static inline void cv_wgmma_n128_rt(float d[64], const uint32_t a[4],
                                    uint64_t b, EMULATOR_HERE)
{
    EmulatorOperand registers;
    EmulatorWgmma w = {};

    memcpy(registers.a, a, sizeof(registers.a));
    emulator_collective(emulator_gather_a, &registers, 0xffffffffu,
                        EMULATOR_AT("wgmma"));
    memcpy(w.a, registers.out, sizeof(w.a));
    w.from_registers = w.transposed = w.add = 1;
    w.b_operand = b;
    emulator_issue(d, 128, w);
}

#endif /* CV_EMULATED_HOPPER_H */
