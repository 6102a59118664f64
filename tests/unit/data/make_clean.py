"""Vectors for the cleaning of prompts, made with ftfy and Python's html.

    python3 make_clean.py > clean.tsv       the vectors in git
    python3 make_clean.py 100000 7 > x.tsv  as many random ones, with a seed
    build/tests/unit/test_clean x.tsv       compares with them

A line is an input, a tab, and what Wan makes of it. ftfy runs without its
mojibake repair, which the engine leaves out. Needs ftfy 6.3.
"""
import html
import html.entities
import random
import re
import sys

import ftfy

CONFIG = ftfy.TextFixerConfig(fix_encoding=False, explain=False)


def clean(text):
    """wan/modules/tokenizers.py: basic_clean, whitespace_clean."""
    text = ftfy.fix_text(text, CONFIG)
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip()


def escape(text):
    return "".join(c if " " <= c <= "~" and c != "\\" else
                   "\\\\" if c == "\\" else "\\u{%x}" % ord(c) for c in text)


CASES = [
    # plain
    "", " ", "a", "a red circle moves right on a blue background", "\n\n",
    "  two   spaces\tand a tab \r\n and lines\n\nend  ",
    # references
    "salt &amp; pepper", "salt &amp;amp; pepper", "&amp;amp;amp;amp;lt;b&gt;",
    "&lt;b&gt; &amp;", "a < b &amp;amp; c", "a < b\n&amp;amp;amp; c",
    "&amp;amp;amp; first\na < b\n&amp;amp;amp;amp; last",
    "&AMP &amp &ampx &ampamp; &notit; &notin; &noti &not; &no;",
    "&eacute;&EACUTE;&Eacute;&eAcute;&SZLIG;&NTILDE;&nTILDE;&BLK12;&blk12;",
    "&copy2024 &COPY;&COPY &reg&Reg;", "&frac14;&FRAC14;&there4;&THERE4;",
    "&CounterClockwiseContourIntegral; &NotNestedGreaterGreater;",
    "&bne;&BNE;&nGt;&NotEqualTilde;", "&fjlig;&FJLIG;&napos;&APOS;",
    "&NewLine;&Tab;x&nbsp;y&ensp;z", "&lsquo;x&rsquo; &ldquo;y&rdquo;",
    "&#65;&#x41;&#X41;&#65 &#x41 &#x41g &#6a; &#x; &# &#; &#;a",
    "&#0;&#13;&#10;&#9;&#12;&#11;&#1;&#31;&#127;&#128;&#129;&#133;&#159;",
    "&#xd800;&#xdfff;&#xd83d;&#xde00;&#x1f600;&#x10ffff;&#x110000;",
    "&#xfdd0;&#xfdef;&#xfffe;&#xffff;&#x1ffff;&#xfdf0;&#99999999999999999999;",
    "&#59; &#x3b; &#38;#59; &#38;amp; &#38;", "&#60;&#38;amp;amp;",
    "&amp", "&", "&&&", "&;", "&a", "&a;", "&lt", "x&lt;y", "&lt&gt",
    "&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;",
    "&ltaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;",
    "&lt\u00e9; &amp\u6f22 &\u6f22; &\u00e9;", "&amp\u3000; &am\ufb01p;",
    "&\uff41\uff4d\uff50; \uff06amp; \uff06lt", "&am\x7fp;",
    "&\ufeffamp;", "&#x\x1b[0m41;", "\uff1cb\uff1e &amp;amp;",
    # one character at a time
    "\ufb01ne \u0149", "\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06",
    "\u0132\u0133\u01c4\u01c5\u01c6\u01c7\u01c8\u01c9\u01ca\u01cb\u01cc"
    "\u01f1\u01f2\u01f3\u00e6\u0153\ua732",
    "".join(map(chr, range(0x80, 0xa0))),
    "".join(map(chr, range(1, 0x80))),
    "\u2018a\u2019 \u201ab\u201b \u201cc\u201d \u201ed\u201f \u02bc \u00ab"
    "\u00bb \u2032 ` \u00b4",
    "".join(map(chr, range(0xff00, 0xff60))),
    "".join(map(chr, range(0xff60, 0xffc0))),
    "".join(map(chr, range(0xffc0, 0xfff0))),
    "".join(map(chr, range(0xfff0, 0x10000))),
    "".join(map(chr, range(0x2000, 0x2070))),
    "a\u3000b\u00a0c\u1680d\u180ee\u200bf\u2060g\u202fh\u205fi\ufeffj",
    "\ufeffbyte order mark", "x\u200by", "\u200bx\u200b", "\u3000x\u3000",
    # lines
    "a\rb\r\nc\n\rd\u2028e\u2029f\x85g\x0bh\x0ci", "\r", "\r\r\n", "a\\nb",
    # terminals
    "\x1b[36;44mI'm blue\x1b[0m", "\x1b[", "\x1b[1", "\x1b[;", "\x1b[;;m",
    "\x1b[m", "\x1b]0;x\x07", "\x1b\x1b[mx", "\x1b[\x1b[31mm", "\x1b[3\x1b[m1m",
    "\x1b[\u0663m", "\x1b[\uff13m", "\x1b[1\u00b2m", "\x1b[\u00e9",
    "&#27;[31mred&#27;[0m",
    # composition
    "cafe\u0301 nai\u0308ve A\u030a \u212b \u2126 \u1e9b\u0323",
    "\u1100\u1161\u11a8 \uac00\u11a8 \u1112\u1175", "q\u0307\u0323",
    "a\u0315\u0300\u05ae\u0301b", "\u0958\u0959 \u2adc \ufb1d\ufb2c",
    "\U0001d15e\U0001d1bb \U0002f800 \uf900", "\u304b\u3099 \uff76\uff9e",
    "\u0344\u0374\u037e\u0387\u0340\u0341", "\u0f43\u0f73\u0f81",
    "e\u0301&amp;\u0301", "&\u0338amp;", "<\u0338 >\u0338 =\u0338",
    "\ud55c\uae00 \u1112\u1161\u11ab\u1100\u1173\u11af",
    # tokenizer's cases
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 Z\u00fcrich S\u00e3o Paulo",
    "\uff21\uff22\uff23 \uff76\uff80\uff76\uff85", "[web] page",
    "\u201cquoted\u201d it\u2019s", "a\u2581b cat", "a </s> b",
    "\u5915\u713c\u3051\u306e\u6d77\u3068\u732b", "\u33c4 \ufb52 \U0001d504",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e007f",
    "\u8272\u8c03\u8273\u4e3d\uff0c\u8fc7\u66dd\uff0c\u9759\u6001\uff0c"
    "\u7ec6\u8282\u6a21\u7cca\u4e0d\u6e05\uff0cJPEG\u538b\u7f29\u6b8b\u7559",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d"
    "\u0926\u0940 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
]

PARTS = list("abcZ019 \t\n\r;;&&&##<>xX'\"[m\\") + """
\x01 \x0b \x0c \x1b \x1b[ \x1b[1; \x1b[0m \x1c \x7f \x80 \x85 \x8d \x93 \x9f
\xa0 \xad \xb4 \xc5 \xe9 \u0131 \u0149 \u01c4 \u01f1 \u02bc \u0300 \u0301 \u0307
\u0308 \u030a \u0323 \u0327 \u0338 \u0345 \u05b0 \u0663 \u0958 \u0f71 \u0f72
\u1100 \u1161 \u11a8 \uac00 \u1e9b \u200b \u200d \u200e \u2009 \u2018 \u201d
\u2028 \u2029 \u202e \u206a \u206f \u2126 \u212b \u2581 \u3000 \u3042 \u304b
\u3099 \u309a \u33c4 \u6f22 \u732b \ue000 \uf900 \ufb01 \ufb05 \ufb1d \ufb52
\ufdfa \ufeff \uff01 \uff06 \uff1b \uff1c \uff21 \uff41 \uff61 \uff76 \uff9e
\uff9f \uffa1 \uffc2 \uffda \uffe3 \uffe6 \uffe8 \uffef \ufff9 \ufffc \ufffd
\ufffe \U0001d15e \U0001d504 \U0001f600 \U000e0067 \U0002f800 \U0010ffff
&amp; &amp &AMP; &lt; &lt &gt; &quot; &nbsp; &eacute; &EACUTE; &szlig &SZLIG;
&not &notin; &apos; &APOS; &rsquo; &ldquo; &hellip; &#38; &#59; &#60; &#x26;
&#8217; &#x2019 &#146; &#x80; &#27; &#27;[m &#0; &#13; &#10; &#xd800; &#xfffe;
&#x1f600; &#12 &#xe9 &#x &fjlig; &bne; &BNE; &zwj; &Tab; &NewLine; &COPY &copy;
&amp;amp;amp; &amp;#38; &amp;lt;b&amp;gt;
""".split()


def random_text(rng):
    if rng.random() < 0.1:
        names = list(html.entities.html5)
        return " ".join("&" + rng.choice((str, str.upper, str.lower))(
            rng.choice(names))[:rng.choice((4, 9, 33))] +
            rng.choice(("", ";", "x")) for _ in range(rng.randint(1, 4)))
    if rng.random() < 0.1:
        return "".join(chr(c) for c in (
            rng.choice((rng.randrange(1, 0x250), rng.randrange(0x250, 0x3000),
                        rng.randrange(0x3000, 0xd800),
                        rng.randrange(0xe000, 0x10000),
                        rng.randrange(0x10000, 0x20000),
                        rng.randrange(0x20000, 0x110000)))
            for _ in range(rng.randint(1, 12))))
    return "".join(rng.choice(PARTS) for _ in range(rng.randint(1, 24)))


def main():
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    cases = CASES + [random_text(rng) for _ in range(250)]
    if len(sys.argv) > 1:
        cases = [random_text(rng) for _ in range(int(sys.argv[1]))]
    for text in cases:
        print(escape(text) + "\t" + escape(clean(text)))


if __name__ == "__main__":
    main()
