"""Writes entities.c: the named character references of HTML 5.

Names and values are those of Python's html.entities.html5, which Wan's prompt
cleaning uses (html.unescape). ftfy, which runs before it, also decodes names
without capitals when they are written all in capitals; what it makes of them
(the value in capitals, Python's str.upper) is the third column.

    python3 make_entities.py > entities.c
"""
import html
import html.entities

HEAD = '''/*
 * The named character references of HTML 5; written by make_entities.py.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * In git because building must not need Python, and because the standard says
 * that this list never changes. One row a name is why the file is long.
 */
#include <stddef.h>
#include <string.h>

#include "entities.h"

/* Sorted by strcmp() of the name. */
static const CvEntity entities[] = {
'''

TAIL = '''};

const CvEntity *cv_entity_find(const char *name)
{
    size_t low = 0, high = sizeof(entities) / sizeof(entities[0]);

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, entities[middle].name);

        if (!order)
            return &entities[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
'''


def literal(text):
    out = ""
    for char in text:
        if char in '"\\':
            out += "\\" + char
        elif char == "\n":
            out += "\\n"
        elif char == "\t":
            out += "\\t"
        elif ord(char) < 0x7f:
            out += char
        elif ord(char) < 0x10000:
            out += "\\u%04x" % ord(char)
        else:
            out += "\\U%08x" % ord(char)
    return '"' + out + '"'


def main():
    table = html.entities.html5
    rows = []
    for name in sorted(k[:-1] for k in table if k.endswith(";")):
        value = table[name + ";"]
        capitals = "&" + name.upper() + ";"
        upper = "NULL"
        if name == name.lower() and html.unescape(capitals) == capitals:
            upper = literal(value.upper())
        bare = name in table
        assert not bare or table[name] == value
        rows.append("{ %s, %s, %s, %d }," %
                    (literal(name), literal(value), upper, bare))
    assert {k.rstrip(";") + ";" for k in table} <= set(table)
    print(HEAD, end="")
    line = "   "
    for row in rows:
        if len(line) + len(row) >= 79:
            print(line)
            line = "   "
        line += " " + row
    print(line)
    print(TAIL, end="")


if __name__ == "__main__":
    main()
