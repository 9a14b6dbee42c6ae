// Encodes plain Python values as bytes and decodes them: None, bool, int, float, complex, str,
// bytes, list, tuple, set, frozenset, dict. Subclasses are written as their base type from its own
// storage, without calling any of their methods.
//
// Decoding trusts nothing. It checks lengths against what is left, caps depth, memory and the time
// that keys of equal hash take, and looks up and runs no code. Weighing comes first: it tells what
// a value would take without making any of it.
#pragma once

#include <Python.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace stepcoder {

constexpr int kMaxValueDepth = 200;
// Requests may hold encoded values within lists of their own.
constexpr int kMaxRequestDepth = kMaxValueDepth + 8;

enum class EncodeStatus { kOk, kNotPlain, kTooLarge, kPythonError };

struct Encoded {
  EncodeStatus status = EncodeStatus::kOk;
  std::string bytes;  // the value; for kNotPlain the reason
};

// What to do with a value whose type is not exactly a plain one.
struct Extension {
  // Called with the value; NotImplemented: subclasses are written as their base, others refused.
  PyObject* hook = nullptr;
  // True: the hook's answer is written behind a mark, for which decoding calls its own hook.
  // False: it is written in the value's place, and the hook is not called for subclasses.
  bool marked = false;
};

Encoded encode_value(PyObject* value, size_t max_bytes, Extension extension = {});

// How many values are encoded (items and keys count), and the memory that they would take, about.
// Equal values weigh the same: a number does not depend on its type, nor a sequence.
struct Weight {
  uint64_t values = 0;
  uint64_t bytes = 0;
};

// Needs no GIL. Malformed bytes may weigh UINT64_MAX, or anything.
Weight weigh(std::string_view bytes);

// Returns a new reference, or nullptr with a Python error set. `hook(payload)` is called for marked
// values. ValueError for malformed bytes: whatever encode_value does not write, and marked values
// without a hook. Memory is what weigh() says.
PyObject* decode_value(std::string_view bytes, PyObject* hook = nullptr,
                       int max_depth = kMaxValueDepth);

}  // namespace stepcoder
