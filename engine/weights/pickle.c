/*
 * Pickles of tensors: read as data, nothing is run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The machine has a stack of values, a stack of marks in it, and a memo of
 * values that are used again. Only protocol 2 and the instructions that
 * torch.save() writes are known. Values are owned by the pickle, not by each
 * other: a list may hold itself, and nothing here walks values recursively.
 * Sources: checkpoints.md 8.2 to 8.4; CPython Lib/pickletools.py; pytorch
 * torch/_weights_only_unpickler.py, torch/_utils.py.
 */
#include <stdlib.h>
#include <string.h>

#include "weights/bytes.h"
#include "weights/pickle_values.h"

/* Far above what weights need (4000 tensors: 1 MB). */
#define MAX_BYTES (16 << 20)
#define MAX_STACK (1 << 16)
#define MAX_MEMO  (1 << 20)
#define MAX_MARKS 64

typedef struct Machine {
    CvPickleMaker make;
    const uint8_t *data;
    size_t size;
    CvPickleValue **stack, **memo;
    size_t n_stack, stack_room, n_memo;
    size_t marks[MAX_MARKS];
    int n_marks;
} Machine;

static int refuse(Machine *m, const char *why)
{
    return cv_pickle_refuse(&m->make, why);
}

static int no_memory(Machine *m)
{
    return cv_fail_memory(m->make.log, m->size, "the contents of a pickle");
}

/* ---- the stack ---- */

static int push(Machine *m, CvPickleValue *v)
{
    if (m->n_stack == m->stack_room) {
        size_t room = m->stack_room ? 2 * m->stack_room : 256;
        CvPickleValue **more;

        if (room > MAX_STACK)
            return refuse(m, "its stack is too deep");
        more = realloc(m->stack, room * sizeof(*more));
        if (!more)
            return no_memory(m);
        m->stack      = more;
        m->stack_room = room;
    }
    m->stack[m->n_stack++] = v;
    return 0;
}

/* Values above the last mark, or all without one. */
static size_t above_mark(const Machine *m)
{
    return m->n_stack - (m->n_marks ? m->marks[m->n_marks - 1] : 0);
}

/* The value at the top, and off it. NULL: nothing is there, refused. */
static CvPickleValue *pop(Machine *m, int *err)
{
    if (!above_mark(m)) {
        *err = refuse(m, "its stack is empty");
        return NULL;
    }
    return m->stack[--m->n_stack];
}

static CvPickleValue *top(Machine *m, int *err)
{
    CvPickleValue *v = pop(m, err);

    if (v)
        m->n_stack++;
    return v;
}

/* Take the values above the last mark off: they stay at *items until the next
 * push. */
static int pop_mark(Machine *m, CvPickleValue ***items, size_t *n)
{
    if (!m->n_marks)
        return refuse(m, "a mark is missing");
    *n = above_mark(m);
    m->n_stack -= *n;
    m->n_marks--;
    *items = m->stack ? m->stack + m->n_stack : NULL;
    return 0;
}

static int push_new(Machine *m, CvPickleKind kind, int64_t integer)
{
    int err = 0;
    CvPickleValue *v = cv_pickle_new(&m->make, kind, &err);

    if (!v)
        return err;
    if (!cv_pickle_is_container(v))
        v->u.integer = integer;
    return push(m, v);
}

static int push_tuple(Machine *m, CvPickleValue **items, size_t n)
{
    int err = 0;
    CvPickleValue *v = cv_pickle_new(&m->make, CV_PICKLE_TUPLE, &err);

    if (!v || (err = cv_pickle_extend(&m->make, v, items, n)) < 0)
        return err;
    return push(m, v);
}

/* ---- reading ---- */

static int take(Machine *m, size_t n, const uint8_t **p)
{
    if (n > m->size - m->make.at)
        return refuse(m, "it is cut off");
    *p = m->data + m->make.at;
    m->make.at += n;
    return 0;
}

static int push_string(Machine *m, size_t n)
{
    CvPickleValue *v;
    const uint8_t *p = NULL;
    int err;

    if ((err = take(m, n, &p)) < 0 ||
        !(v = cv_pickle_new(&m->make, CV_PICKLE_STRING, &err)))
        return err;
    v->u.string.text   = (const char *)p;
    v->u.string.length = n;
    return push(m, v);
}

/* LONG1: n bytes, little endian, two's complement. */
static int push_long(Machine *m, size_t n)
{
    uint64_t value = 0;
    const uint8_t *p = NULL;
    int err;

    if (n > 8)
        return refuse(m, "it has a number that is too large");
    if ((err = take(m, n, &p)) < 0)
        return err;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)p[i] << 8 * i;
    if (n && n < 8 && p[n - 1] & 0x80)
        value |= UINT64_MAX << 8 * n;
    return push_new(m, CV_PICKLE_INT, (int64_t)value);
}

static int push_float(Machine *m)
{
    CvPickleValue *v;
    uint64_t bits = 0;
    const uint8_t *p = NULL;
    int err;

    if ((err = take(m, 8, &p)) < 0 ||
        !(v = cv_pickle_new(&m->make, CV_PICKLE_FLOAT, &err)))
        return err;
    for (int i = 0; i < 8; i++) /* big endian */
        bits = bits << 8 | p[i];
    memcpy(&v->u.real, &bits, sizeof(bits));
    return push(m, v);
}

/* A line without its end. */
static int take_line(Machine *m, const char **text, size_t *n)
{
    const uint8_t *p = m->data + m->make.at;
    const uint8_t *end = memchr(p, '\n', m->size - m->make.at);

    if (!end)
        return refuse(m, "it is cut off");
    *text = (const char *)p;
    *n    = (size_t)(end - p);
    m->make.at += *n + 1;
    return 0;
}

static int push_global(Machine *m)
{
    const char *module = "", *name = "";
    size_t n_module = 0, n_name = 0;
    int err;

    if ((err = take_line(m, &module, &n_module)) < 0 ||
        (err = take_line(m, &name, &n_name)) < 0 ||
        (err = cv_pickle_global(&m->make, module, n_module, name, n_name)) < 0)
        return err;
    return push_new(m, CV_PICKLE_GLOBAL, err);
}

static int take_memo(Machine *m, size_t i)
{
    if (i >= m->n_memo || !m->memo[i])
        return refuse(m, "it takes from its memo what was not put there");
    return push(m, m->memo[i]);
}

static int put_memo(Machine *m, size_t i)
{
    int err = 0;
    CvPickleValue *v = top(m, &err);

    if (!v)
        return err;
    if (i >= MAX_MEMO)
        return refuse(m, "its memo is too large");
    if (i >= m->n_memo) {
        /* in steps, since they count up from 0 */
        size_t n = (i / 4096 + 1) * 4096 + i / 2;
        CvPickleValue **more = realloc(m->memo, n * sizeof(*more));

        if (!more)
            return no_memory(m);
        memset(more + m->n_memo, 0, (n - m->n_memo) * sizeof(*more));
        m->memo   = more;
        m->n_memo = n;
    }
    m->memo[i] = v;
    return 0;
}

/* ---- calls and containers ---- */

/* only_class: the name must be of a class that has no contents of its own. */
static int reduce(Machine *m, int only_class)
{
    int err = 0;
    CvPickleValue *args = pop(m, &err);
    CvPickleValue *f = args ? pop(m, &err) : NULL, *result;

    if (!f)
        return err;
    result = cv_pickle_call(&m->make, f, args, only_class, &err);
    return result ? push(m, result) : err;
}

/* BINPERSID */
static int push_storage(Machine *m)
{
    int err = 0;
    CvPickleValue *id = pop(m, &err);
    CvPickleValue *v = id ? cv_pickle_storage(&m->make, id, &err) : NULL;

    return v ? push(m, v) : err;
}


/* Values that were taken off the stack, into the container below them. */
static int add_items(Machine *m, CvPickleValue **items, size_t n, int pairs)
{
    int err = 0;
    CvPickleValue *list = top(m, &err);

    if (!list)
        return err;
    if (pairs ? !cv_pickle_is_dict(list) || n % 2 : list->kind != CV_PICKLE_LIST)
        return refuse(m, "it puts items into what is no container");
    return cv_pickle_extend(&m->make, list, items, n);
}

static int add_marked(Machine *m, int pairs)
{
    CvPickleValue **items = NULL;
    size_t n = 0;
    int err = pop_mark(m, &items, &n);

    return err < 0 ? err : add_items(m, items, n, pairs);
}

/* The top n values. */
static int add_last(Machine *m, size_t n, int pairs)
{
    if (above_mark(m) < n)
        return refuse(m, "its stack is empty");
    m->n_stack -= n;
    return add_items(m, m->stack + m->n_stack, n, pairs);
}

static int last_tuple(Machine *m, size_t n)
{
    if (above_mark(m) < n)
        return refuse(m, "its stack is empty");
    m->n_stack -= n;
    return push_tuple(m, m->stack + m->n_stack, n);
}

static int marked_tuple(Machine *m)
{
    CvPickleValue **items = NULL;
    size_t n = 0;
    int err = pop_mark(m, &items, &n);

    return err < 0 ? err : push_tuple(m, items, n);
}

/* The state of a value, such as the versions of a state dict's modules, is
 * dropped. */
static int build(Machine *m)
{
    int err = 0;
    CvPickleValue *state = pop(m, &err), *v = state ? top(m, &err) : NULL;

    if (!v)
        return err;
    if (v->kind != CV_PICKLE_TENSOR && v->kind != CV_PICKLE_ORDERED_DICT)
        return refuse(m, "it sets the state of an object");
    return 0;
}

static int mark(Machine *m)
{
    if (m->n_marks == MAX_MARKS)
        return refuse(m, "its containers are nested too deep");
    m->marks[m->n_marks++] = m->n_stack;
    return 0;
}

static int protocol(Machine *m, unsigned version)
{
    if (version != 2)
        return cv_fail(m->make.log, EILSEQ, "'%s' is a pickle of protocol %u; "
                       "expected 2, as torch.save() writes it: save it again "
                       "without pickle_protocol", m->make.path, version);
    if (m->make.at != 2)
        return refuse(m, "it begins twice");
    return 0;
}

/* ---- instructions ---- */

static int unknown(Machine *m, unsigned op)
{
    return cv_fail(m->make.log, EILSEQ, "'%s': its pickle has the instruction 0x%02x "
                   "at byte %zu, which weights do not need; refused, and "
                   "nothing of it was run: save the state dict alone, with "
                   "torch.save(model.state_dict(), ...)", m->make.path, op,
                   m->make.at - 1);
}

/* One instruction whose operand, of a size that goes by `op`, is at p. */
static int step(Machine *m, unsigned op, const uint8_t *p)
{
    switch (op) {
    case 0x80: return protocol(m, p[0]);
    case '}':  return push_new(m, CV_PICKLE_DICT, 0);
    case ']':  return push_new(m, CV_PICKLE_LIST, 0);
    case ')':  return push_new(m, CV_PICKLE_TUPLE, 0);
    case 'N':  return push_new(m, CV_PICKLE_NONE, 0);
    case 0x88: return push_new(m, CV_PICKLE_BOOL, 1);
    case 0x89: return push_new(m, CV_PICKLE_BOOL, 0);
    case 'J':  return push_new(m, CV_PICKLE_INT, (int32_t)cv_le32(p));
    case 'K':  return push_new(m, CV_PICKLE_INT, p[0]);
    case 'M':  return push_new(m, CV_PICKLE_INT, cv_le16(p));
    case 0x8a: return push_long(m, p[0]);
    case 'G':  return push_float(m);
    case 'X':  return push_string(m, cv_le32(p));
    case 'U':  return push_string(m, p[0]);
    case 'c':  return push_global(m);
    case '(':  return mark(m);
    case 't':  return marked_tuple(m);
    case 0x85: return last_tuple(m, 1);
    case 0x86: return last_tuple(m, 2);
    case 0x87: return last_tuple(m, 3);
    case 'h':  return take_memo(m, p[0]);
    case 'j':  return take_memo(m, cv_le32(p));
    case 'q':  return put_memo(m, p[0]);
    case 'r':  return put_memo(m, cv_le32(p));
    case 'Q':  return push_storage(m);
    case 'R':  return reduce(m, 0);
    case 0x81: return reduce(m, 1);
    case 'b':  return build(m);
    case 's':  return add_last(m, 2, 1);
    case 'u':  return add_marked(m, 1);
    case 'a':  return add_last(m, 1, 0);
    case 'e':  return add_marked(m, 0);
    default:   return unknown(m, op);
    }
}

static size_t operand_bytes(unsigned op)
{
    switch (op) {
    case 0x80: case 'K': case 0x8a: case 'U': case 'h': case 'q':
        return 1;
    case 'M':
        return 2;
    case 'J': case 'X': case 'j': case 'r':
        return 4;
    default:
        return 0;
    }
}

static int run(Machine *m)
{
    for (;;) {
        const uint8_t *op = NULL, *operand = NULL;
        int err;

        if ((err = take(m, 1, &op)) < 0)
            return err;
        if (op[0] == '.')
            break;
        if ((err = take(m, operand_bytes(op[0]), &operand)) < 0 ||
            (err = step(m, op[0], operand)) < 0)
            return err;
    }
    if (m->n_stack != 1 || m->n_marks)
        return refuse(m, "it ends in the middle");
    if (m->make.at != m->size)
        return refuse(m, "bytes follow its end");
    m->make.pickle->root = m->stack[0];
    return 0;
}

int cv_pickle_read(CvPickle *pickle, const uint8_t *data, size_t size,
                   const char *path, CvLog *log)
{
    Machine m = { .make = { .pickle = pickle, .path = path, .log = log },
                  .data = data, .size = size };
    int err;

    memset(pickle, 0, sizeof(*pickle));
    if (size > MAX_BYTES)
        return cv_fail(log, EILSEQ, "'%s': its pickle has %zu bytes; expected "
                       "at most %d: save the state dict alone", path, size,
                       MAX_BYTES);
    err = run(&m);
    free(m.stack);
    free(m.memo);
    if (err < 0)
        cv_pickle_free(pickle);
    return err;
}
