// Plain Python values as bytes and back: None, bool, int, float, complex, str, bytes, list, tuple,
// set, frozenset, dict. Subclasses are written as their base type from its own storage, without
// calling any method of theirs.
//
// Decoding trusts nothing: lengths are checked against what is left, depth, memory and the time
// that keys of equal hash take are capped, and no code is looked up or run.
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

// What to do with a value that is not exactly of a plain type.
struct Extension {
  // Called with the value; NotImplemented: subclasses are written as their base, others refused.
  PyObject* hook = nullptr;
  // True: what the hook returns is written behind a mark, and decoding calls its own hook for it.
  // False: it is written in the value's place, and subclasses of plain types are not asked about.
  bool marked = false;
};

Encoded encode_value(PyObject* value, size_t max_bytes, Extension extension = {});

// Returns a new reference, or nullptr with a Python error set. `hook(payload)` is called for marked
// values; without one they are malformed, as everything is that encode_value does not write, and
// what would take more than about `max_memory` bytes: 32 MiB of empty sets become 4 GiB.
PyObject* decode_value(std::string_view bytes, PyObject* hook = nullptr,
                       uint64_t max_memory = UINT64_MAX);

}  // namespace stepcoder
