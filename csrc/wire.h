// Plain Python values as bytes and back: None, bool, int, float, complex, str, bytes, list, tuple,
// set, frozenset, dict. Subclasses are written as their base type from its own storage, without
// calling any method of theirs.
//
// Decoding trusts nothing: lengths are checked against what is left, depth is capped, and no code
// is looked up or run.
#pragma once

#include <Python.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace stepcoder {

constexpr int kMaxValueDepth = 200;

enum class EncodeStatus { kOk, kNotPlain, kTooLarge, kPythonError };

struct Encoded {
  EncodeStatus status = EncodeStatus::kOk;
  std::string bytes;  // the value; for kNotPlain the reason
};

// Called for a value of no plain type: returns a new reference to what stands for it, or nullptr
// without a Python error if nothing does.
using Normalizer = PyObject* (*)(PyObject*);

Encoded encode_value(PyObject* value, size_t max_bytes, Normalizer normalize = nullptr);

// Returns a new reference, or nullptr with ValueError set.
PyObject* decode_value(std::string_view bytes);

}  // namespace stepcoder
