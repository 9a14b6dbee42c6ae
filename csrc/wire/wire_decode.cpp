// See wire.h: decodes bytes that untrusted code has written.
#include <cstring>
#include <unordered_map>

#include "wire/wire.h"
#include "wire/wire_tags.h"

namespace stepcoder {
namespace {

// Counts the work of comparing keys of equal hash in one set or dict. A program can choose
// thousands of such keys, which would hold up the judge for hours.
class Collisions {
 public:
  explicit Collisions(uint64_t& work) : work_(work) {}

  // False once comparing is too much work. `bytes` is the key's encoded size.
  bool bearable(Py_hash_t hash, uint64_t bytes) {
    work_ += seen_[hash]++ * bytes;
    return work_ <= kMaxWork;
  }

 private:
  static constexpr uint64_t kMaxWork = uint64_t{1} << 25;  // bytes compared: about 0.1 s
  uint64_t& work_;
  std::unordered_map<Py_hash_t, uint64_t> seen_;
};

// Reads what encode_value has written, or is said to have.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

 protected:
  bool length(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return false;
      auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == 63 && byte > 1) return false;
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  bool block(std::string_view& out) {
    uint64_t size = 0;
    if (!length(size) || size > rest_.size()) return false;
    out = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  bool number(double& out) {
    if (rest_.size() < sizeof out) return false;
    std::memcpy(&out, rest_.data(), sizeof out);
    rest_.remove_prefix(sizeof out);
    return true;
  }

  // Each item takes at least one byte, so a count above what is left is a lie.
  bool count(uint64_t& out, uint64_t bytes_per_item) {
    return length(out) && out <= rest_.size() / bytes_per_item;
  }

  char tag() {
    const char tag = rest_.front();
    rest_.remove_prefix(1);
    return tag;
  }

  std::string_view rest_;
};

class Scales : Reader {
 public:
  using Reader::Reader;

  Weight run() {
    while (!rest_.empty()) {
      ++weight_.values;
      weight_.bytes += kSmallBytes;
      if (!add()) return {UINT64_MAX, UINT64_MAX};
    }
    return weight_;
  }

 private:
  // One value without its items, which follow as values of their own.
  bool add() {
    uint64_t size = 0;
    double real = 0;
    std::string_view data;
    switch (tag()) {
      case kNone:
      case kTrue:
      case kFalse:
      case kMarked:
        return true;
      case kSmallInt:
        return length(size);
      case kFloat:
        return number(real);
      case kComplex:
        return number(real) && number(real);
      case kBigInt:
        // One that is as large as a float weighs as much as one.
        return block(data) && (data.size() <= kBytesOfLargestFloat || weighs(2 * data.size()));
      case kStr:
        // Characters of two or four bytes where there are any.
        return block(data) && weighs(kContainerBytes + 4 * data.size());
      case kBytes:
        return block(data) && weighs(kContainerBytes + data.size());
      case kList:
      case kTuple:
        return count(size, 1) && weighs(kContainerBytes + kSlotBytes * size);
      case kSet:
      case kFrozenSet:
        return count(size, 1) && weighs(kTableBytes + kEntryBytes * size);
      case kDict:
        return count(size, 2) && weighs(kTableBytes + kEntryBytes * size);
      default:
        return false;
    }
  }

  bool weighs(uint64_t bytes) {
    weight_.bytes += bytes;
    return true;
  }

  // What CPython's objects take, roughly.
  static constexpr uint64_t kSmallBytes = 32;
  static constexpr uint64_t kContainerBytes = 64;
  static constexpr uint64_t kSlotBytes = 8;
  static constexpr uint64_t kTableBytes = 232;
  static constexpr uint64_t kEntryBytes = 64;
  static constexpr uint64_t kBytesOfLargestFloat = 129;  // as an int

  Weight weight_;
};

class Decoder : Reader {
 public:
  Decoder(std::string_view bytes, PyObject* hook, int max_depth)
      : Reader(bytes), hook_(hook), max_depth_(max_depth) {}

  PyObject* run() {
    PyObject* value = get(0);
    if (value != nullptr && !rest_.empty()) {
      Py_DECREF(value);
      return malformed();
    }
    return value;
  }

 private:
  PyObject* malformed() {
    if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_ValueError, "malformed value");
    return nullptr;
  }

  PyObject* sequence(bool is_list, int depth) {
    uint64_t size = 0;
    if (!count(size, 1)) return malformed();
    auto length_hint = static_cast<Py_ssize_t>(size);
    PyObject* out = is_list ? PyList_New(length_hint) : PyTuple_New(length_hint);
    if (out == nullptr) return nullptr;
    for (Py_ssize_t i = 0; i < length_hint; ++i) {
      PyObject* item = get(depth + 1);
      if (item == nullptr) {
        Py_DECREF(out);
        return nullptr;
      }
      if (is_list)
        PyList_SET_ITEM(out, i, item);
      else
        PyTuple_SET_ITEM(out, i, item);
    }
    return out;
  }

  PyObject* items(bool frozen, int depth) {
    uint64_t size = 0;
    if (!count(size, 1)) return malformed();
    PyObject* out = PySet_New(nullptr);
    if (out == nullptr) return nullptr;
    Collisions collisions(work_);
    for (uint64_t i = 0; i < size; ++i) {
      const size_t before = rest_.size();
      PyObject* item = get(depth + 1);
      bool added = item != nullptr && may_be_key(item, size, before, collisions) &&
                   PySet_Add(out, item) == 0;
      Py_XDECREF(item);
      if (!added) {
        Py_DECREF(out);
        return as_value_error();
      }
    }
    if (!frozen) return out;
    PyObject* fixed = PyFrozenSet_New(out);
    Py_DECREF(out);
    return fixed;
  }

  PyObject* mapping(int depth) {
    uint64_t size = 0;
    if (!count(size, 2)) return malformed();
    PyObject* out = PyDict_New();
    if (out == nullptr) return nullptr;
    Collisions collisions(work_);
    for (uint64_t i = 0; i < size; ++i) {
      const size_t before = rest_.size();
      PyObject* key = get(depth + 1);
      const bool usable = key != nullptr && may_be_key(key, size, before, collisions);
      PyObject* item = usable ? get(depth + 1) : nullptr;
      bool added = item != nullptr && PyDict_SetItem(out, key, item) == 0;
      Py_XDECREF(key);
      Py_XDECREF(item);
      if (!added) {
        Py_DECREF(out);
        return as_value_error();
      }
    }
    return out;
  }

  // In a small table no number of equal hashes takes long. `before` is what was left to read before
  // the key.
  bool may_be_key(PyObject* key, uint64_t table_size, size_t before, Collisions& collisions) {
    if (table_size <= kSmallTable) return true;
    const Py_hash_t hash = PyObject_Hash(key);
    return PyErr_Occurred() == nullptr && collisions.bearable(hash, before - rest_.size());
  }

  // An unhashable item is a forgery too: real sets and dicts hold none.
  PyObject* as_value_error() {
    if (PyErr_ExceptionMatches(PyExc_TypeError) != 0) PyErr_Clear();
    return malformed();
  }

  PyObject* marked(int depth) {
    PyObject* payload = get(depth + 1);
    if (payload == nullptr) return nullptr;
    PyObject* value = PyObject_CallOneArg(hook_, payload);
    Py_DECREF(payload);
    return value;
  }

  PyObject* get(int depth) {
    if (rest_.empty() || depth > max_depth_) return malformed();
    std::string_view data;
    double real = 0;
    double imaginary = 0;
    uint64_t unsigned_value = 0;
    switch (tag()) {
      case kNone:
        Py_RETURN_NONE;
      case kTrue:
        Py_RETURN_TRUE;
      case kFalse:
        Py_RETURN_FALSE;
      case kSmallInt:
        if (!length(unsigned_value)) return malformed();
        return PyLong_FromLongLong(
            static_cast<long long>((unsigned_value >> 1) ^ (~(unsigned_value & 1) + 1)));
      case kBigInt:
        if (!block(data) || data.empty()) return malformed();
        return _PyLong_FromByteArray(reinterpret_cast<const unsigned char*>(data.data()),
                                     data.size(), 1, 1);
      case kFloat:
        return number(real) ? PyFloat_FromDouble(real) : malformed();
      case kComplex:
        if (!number(real) || !number(imaginary)) return malformed();
        return PyComplex_FromDoubles(real, imaginary);
      case kStr:
        if (!block(data)) return malformed();
        return PyUnicode_DecodeUTF8(data.data(), static_cast<Py_ssize_t>(data.size()),
                                    "surrogatepass");
      case kBytes:
        if (!block(data)) return malformed();
        return PyBytes_FromStringAndSize(data.data(), static_cast<Py_ssize_t>(data.size()));
      case kList:
        return sequence(true, depth);
      case kTuple:
        return sequence(false, depth);
      case kSet:
        return items(false, depth);
      case kFrozenSet:
        return items(true, depth);
      case kDict:
        return mapping(depth);
      case kMarked:
        return hook_ == nullptr ? malformed() : marked(depth);
      default:
        return malformed();
    }
  }

  static constexpr uint64_t kSmallTable = 64;

  PyObject* hook_;
  int max_depth_;
  uint64_t work_ = 0;  // see Collisions
};

}  // namespace

Weight weigh(std::string_view bytes) { return Scales(bytes).run(); }

PyObject* decode_value(std::string_view bytes, PyObject* hook, int max_depth) {
  return Decoder(bytes, hook, max_depth).run();
}

}  // namespace stepcoder
