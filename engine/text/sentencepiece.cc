/*
 * The SentencePiece library behind C functions: the engine's only C++ file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * No exception leaves this file.
 */
#include <cerrno>
#include <cstdio>
#include <new>
#include <string_view>

#include <sentencepiece_processor.h>

#include "spiece.h"

struct CvSpiece {
    sentencepiece::SentencePieceProcessor processor;
    int32_t unknown;
};

int cv_spiece_open(CvSpiece **spiece, const uint8_t *model, size_t bytes,
                   char *error, size_t error_bytes)
{
    CvSpiece *s = nullptr;
    int err = -EILSEQ;

    *spiece = nullptr;
    error[0] = 0;
    try {
        s = new CvSpiece();
        const auto status = s->processor.LoadFromSerializedProto(
            std::string_view(reinterpret_cast<const char *>(model), bytes));
        if (status.ok()) {
            s->unknown = s->processor.unk_id();
            *spiece = s;
            return 0;
        }
        std::snprintf(error, error_bytes, "%s", status.ToString().c_str());
    } catch (const std::bad_alloc &) {
        err = -ENOMEM;
    } catch (const std::exception &e) {
        std::snprintf(error, error_bytes, "%s", e.what());
    } catch (...) {
        std::snprintf(error, error_bytes, "unknown exception");
    }
    /* Pieces that the message quotes may hold anything. */
    for (char *c = error; *c; c++)
        if (static_cast<unsigned char>(*c) < 0x20)
            *c = ' ';
    delete s;
    return err;
}

void cv_spiece_close(CvSpiece **spiece)
{
    delete *spiece;
    *spiece = nullptr;
}

int32_t cv_spiece_count(const CvSpiece *spiece)
{
    return spiece->processor.GetPieceSize();
}

int32_t cv_spiece_find(const CvSpiece *spiece, const char *text, size_t bytes)
{
    const std::string_view piece(text, bytes);
    const int id = spiece->processor.PieceToId(piece);

    /* The library answers "<unk>" for what it does not know. */
    if (id == spiece->unknown && spiece->processor.IdToPiece(id) != piece)
        return -1;
    return id;
}

size_t cv_spiece_bytes(const CvSpiece *spiece, int32_t id)
{
    return spiece->processor.IdToPiece(id).size();
}

float cv_spiece_score(const CvSpiece *spiece, int32_t id)
{
    return spiece->processor.GetScore(id);
}

int cv_spiece_special(const CvSpiece *spiece, int32_t id)
{
    return spiece->processor.IsControl(id) || spiece->processor.IsUnknown(id);
}

int32_t cv_spiece_unknown(const CvSpiece *spiece)
{
    return spiece->unknown;
}
