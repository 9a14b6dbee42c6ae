#include "wire.h"

#include <cstring>
#include <unordered_map>

namespace stepcoder {
namespace {

enum Tag : char {
  kNone = 'N',
  kTrue = 'T',
  kFalse = 'F',
  kSmallInt = 'i',
  kBigInt = 'I',
  kFloat = 'f',
  kComplex = 'c',
  kStr = 's',
  kBytes = 'b',
  kList = 'l',
  kTuple = 't',
  kSet = 'S',
  kFrozenSet = 'Z',
  kDict = 'd',
  kMarked = 'x',
};

class Encoder {
 public:
  Encoder(size_t max_bytes, Extension extension) : max_bytes_(max_bytes), extension_(extension) {}

  Encoded run(PyObject* value) {
    EncodeStatus status = put(value, 0);
    if (status == EncodeStatus::kNotPlain) return {status, std::move(reason_)};
    return {status, status == EncodeStatus::kOk ? std::move(out_) : std::string()};
  }

 private:
  void raw(const void* data, size_t size) { out_.append(static_cast<const char*>(data), size); }

  void length(uint64_t value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<char>(value));
  }

  EncodeStatus block(Tag tag, const char* data, size_t size) {
    if (out_.size() + size > max_bytes_) return EncodeStatus::kTooLarge;
    out_.push_back(tag);
    length(size);
    raw(data, size);
    return EncodeStatus::kOk;
  }

  EncodeStatus integer(PyObject* value) {
    int overflow = 0;
    long long small = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow == 0) {
      out_.push_back(kSmallInt);
      int64_t number = small;
      length((static_cast<uint64_t>(number) << 1) ^ static_cast<uint64_t>(number >> 63));
      return EncodeStatus::kOk;
    }
    // int.bit_length of the base type: a subclass may override it.
    PyObject* bits =
        PyObject_CallMethod(reinterpret_cast<PyObject*>(&PyLong_Type), "bit_length", "O", value);
    if (bits == nullptr) return EncodeStatus::kPythonError;
    size_t size = PyLong_AsSize_t(bits) / 8 + 1;
    Py_DECREF(bits);
    if (out_.size() + size > max_bytes_) return EncodeStatus::kTooLarge;
    out_.push_back(kBigInt);
    length(size);
    size_t start = out_.size();
    out_.resize(start + size);
    auto* target = reinterpret_cast<unsigned char*>(out_.data() + start);
    auto* number = reinterpret_cast<PyLongObject*>(value);
#if PY_VERSION_HEX >= 0x030D0000
    int failed = _PyLong_AsByteArray(number, target, size, 1, 1, 1);
#else
    int failed = _PyLong_AsByteArray(number, target, size, 1, 1);
#endif
    return failed != 0 ? EncodeStatus::kPythonError : EncodeStatus::kOk;
  }

  EncodeStatus text(PyObject* value) {
    // Almost every string has a UTF-8 form; those with lone surrogates go the slow way.
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(value, &size);
    if (data != nullptr) return block(kStr, data, static_cast<size_t>(size));
    PyErr_Clear();
    PyObject* bytes = PyUnicode_AsEncodedString(value, "utf-8", "surrogatepass");
    if (bytes == nullptr) return EncodeStatus::kPythonError;
    EncodeStatus status =
        block(kStr, PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes)));
    Py_DECREF(bytes);
    return status;
  }

  EncodeStatus items(PyObject* iterable, Tag tag, Py_ssize_t size, int depth) {
    out_.push_back(tag);
    length(static_cast<uint64_t>(size));
    // Sets: iterate over the storage, which a subclass cannot override.
    PyObject* iterator = PySet_Type.tp_iter(iterable);
    if (iterator == nullptr) return EncodeStatus::kPythonError;
    EncodeStatus status = EncodeStatus::kOk;
    Py_ssize_t seen = 0;
    while (status == EncodeStatus::kOk) {
      PyObject* item = PyIter_Next(iterator);
      if (item == nullptr) break;
      status = put(item, depth + 1);
      Py_DECREF(item);
      ++seen;
    }
    Py_DECREF(iterator);
    if (status == EncodeStatus::kOk && (PyErr_Occurred() != nullptr || seen != size))
      return EncodeStatus::kPythonError;
    return status;
  }

  EncodeStatus sequence(PyObject* value, Tag tag, int depth) {
    Py_ssize_t size = tag == kList ? PyList_GET_SIZE(value) : PyTuple_GET_SIZE(value);
    out_.push_back(tag);
    length(static_cast<uint64_t>(size));
    for (Py_ssize_t i = 0; i < size; ++i) {
      // Normalizing an item may run code that shortens the list.
      if (tag == kList && i >= PyList_GET_SIZE(value)) return not_plain("a list that changes");
      PyObject* item = tag == kList ? PyList_GET_ITEM(value, i) : PyTuple_GET_ITEM(value, i);
      Py_INCREF(item);
      EncodeStatus status = put(item, depth + 1);
      Py_DECREF(item);
      if (status != EncodeStatus::kOk) return status;
    }
    return EncodeStatus::kOk;
  }

  EncodeStatus mapping(PyObject* value, int depth) {
    Py_ssize_t size = PyDict_Size(value);
    out_.push_back(kDict);
    length(static_cast<uint64_t>(size));
    Py_ssize_t position = 0;
    Py_ssize_t seen = 0;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    while (PyDict_Next(value, &position, &key, &item) != 0) {
      Py_INCREF(key);
      Py_INCREF(item);
      EncodeStatus status = put(key, depth + 1);
      if (status == EncodeStatus::kOk) status = put(item, depth + 1);
      Py_DECREF(key);
      Py_DECREF(item);
      if (status != EncodeStatus::kOk) return status;
      ++seen;
    }
    return seen == size ? EncodeStatus::kOk : not_plain("a dict that changes");
  }

  EncodeStatus not_plain(std::string reason) {
    reason_ = std::move(reason);
    return EncodeStatus::kNotPlain;
  }

  static bool exactly_plain(PyObject* value) {
    return PyLong_CheckExact(value) || PyUnicode_CheckExact(value) || PyFloat_CheckExact(value) ||
           PyList_CheckExact(value) || PyTuple_CheckExact(value) || PyDict_CheckExact(value) ||
           PySet_CheckExact(value) || PyFrozenSet_CheckExact(value) || PyBytes_CheckExact(value) ||
           PyComplex_CheckExact(value);
  }

  // Asks the hook; `unknown_` says whether it had no answer.
  EncodeStatus extended(PyObject* value, int depth) {
    unknown_ = false;
    PyObject* answer = PyObject_CallOneArg(extension_.hook, value);
    if (answer == nullptr) return EncodeStatus::kPythonError;
    EncodeStatus status = EncodeStatus::kOk;
    if (answer == Py_NotImplemented) {
      unknown_ = true;
    } else {
      if (extension_.marked) out_.push_back(kMarked);
      status = put(answer, depth + 1);
      unknown_ = false;
    }
    Py_DECREF(answer);
    return status;
  }

  EncodeStatus put(PyObject* value, int depth) {
    if (out_.size() >= max_bytes_) return EncodeStatus::kTooLarge;
    if (depth > kMaxValueDepth) return not_plain("a value nested too deeply or within itself");
    if (value == Py_None) return out_.push_back(kNone), EncodeStatus::kOk;
    if (value == Py_True) return out_.push_back(kTrue), EncodeStatus::kOk;
    if (value == Py_False) return out_.push_back(kFalse), EncodeStatus::kOk;
    if (extension_.marked && !exactly_plain(value)) {
      EncodeStatus status = extended(value, depth);
      if (!unknown_) return status;
    }
    if (PyLong_Check(value)) return integer(value);
    if (PyUnicode_Check(value)) return text(value);
    if (PyFloat_Check(value)) {
      double number = PyFloat_AS_DOUBLE(value);
      out_.push_back(kFloat);
      raw(&number, sizeof number);
      return EncodeStatus::kOk;
    }
    if (PyList_Check(value)) return sequence(value, kList, depth);
    if (PyTuple_Check(value)) return sequence(value, kTuple, depth);
    if (PyDict_Check(value)) return mapping(value, depth);
    if (PyFrozenSet_Check(value)) return items(value, kFrozenSet, PySet_GET_SIZE(value), depth);
    if (PyAnySet_Check(value)) return items(value, kSet, PySet_GET_SIZE(value), depth);
    if (PyBytes_Check(value))
      return block(kBytes, PyBytes_AS_STRING(value), static_cast<size_t>(PyBytes_GET_SIZE(value)));
    if (PyByteArray_Check(value))
      return block(kBytes, PyByteArray_AS_STRING(value),
                   static_cast<size_t>(PyByteArray_GET_SIZE(value)));
    if (PyComplex_Check(value)) {
      Py_complex number = reinterpret_cast<PyComplexObject*>(value)->cval;
      out_.push_back(kComplex);
      raw(&number.real, sizeof number.real);
      raw(&number.imag, sizeof number.imag);
      return EncodeStatus::kOk;
    }
    if (extension_.hook != nullptr && !extension_.marked) {
      EncodeStatus status = extended(value, depth);
      if (!unknown_) return status;
    }
    return not_plain(std::string("a value of type ") + Py_TYPE(value)->tp_name);
  }

  std::string out_;
  std::string reason_;
  bool unknown_ = false;
  size_t max_bytes_;
  Extension extension_;
};

// Keys of one set or dict whose hashes are equal are compared one by one. A program can choose such
// keys by the thousand, and would hold up the judge for hours.
class Collisions {
 public:
  explicit Collisions(uint64_t& work) : work_(work) {}

  // False where comparing has become too much work. `bytes` is the key's encoded size.
  bool bearable(Py_hash_t hash, uint64_t bytes) {
    work_ += seen_[hash]++ * bytes;
    return work_ <= kMaxWork;
  }

 private:
  static constexpr uint64_t kMaxWork = uint64_t{1} << 28;  // bytes compared: about a second
  uint64_t& work_;
  std::unordered_map<Py_hash_t, uint64_t> seen_;
};

class Decoder {
 public:
  Decoder(std::string_view bytes, PyObject* hook, uint64_t max_memory)
      : rest_(bytes), hook_(hook), memory_left_(max_memory) {}

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

  bool afford(uint64_t bytes) {
    const bool enough = bytes <= memory_left_;
    memory_left_ -= enough ? bytes : memory_left_;
    return enough;
  }

  PyObject* sequence(bool is_list, int depth) {
    uint64_t size = 0;
    if (!count(size, 1) || !afford(kContainerBytes + kSlotBytes * size)) return malformed();
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
    if (!count(size, 1) || !afford(kTableBytes + kEntryBytes * size)) return malformed();
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
    if (!count(size, 2) || !afford(kTableBytes + kEntryBytes * size)) return malformed();
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
    if (rest_.empty() || depth > kMaxValueDepth + 1 || !afford(kSmallBytes)) return malformed();
    char tag = rest_.front();
    rest_.remove_prefix(1);
    std::string_view data;
    double real = 0;
    double imaginary = 0;
    uint64_t unsigned_value = 0;
    switch (tag) {
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
        if (!block(data) || data.empty() || !afford(2 * data.size())) return malformed();
        return _PyLong_FromByteArray(reinterpret_cast<const unsigned char*>(data.data()),
                                     data.size(), 1, 1);
      case kFloat:
        return number(real) ? PyFloat_FromDouble(real) : malformed();
      case kComplex:
        if (!number(real) || !number(imaginary)) return malformed();
        return PyComplex_FromDoubles(real, imaginary);
      case kStr:
        // Characters of two or four bytes where there are any.
        if (!block(data) || !afford(kContainerBytes + 4 * data.size())) return malformed();
        return PyUnicode_DecodeUTF8(data.data(), static_cast<Py_ssize_t>(data.size()),
                                    "surrogatepass");
      case kBytes:
        if (!block(data) || !afford(kContainerBytes + data.size())) return malformed();
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

  // What CPython's objects take, roughly.
  static constexpr uint64_t kSmallBytes = 32;
  static constexpr uint64_t kContainerBytes = 64;
  static constexpr uint64_t kSlotBytes = 8;
  static constexpr uint64_t kTableBytes = 232;
  static constexpr uint64_t kEntryBytes = 64;
  static constexpr uint64_t kSmallTable = 64;

  std::string_view rest_;
  PyObject* hook_;
  uint64_t memory_left_;
  uint64_t work_ = 0;  // see Collisions
};

}  // namespace

Encoded encode_value(PyObject* value, size_t max_bytes, Extension extension) {
  return Encoder(max_bytes, extension).run(value);
}

PyObject* decode_value(std::string_view bytes, PyObject* hook, uint64_t max_memory) {
  return Decoder(bytes, hook, max_memory).run();
}

}  // namespace stepcoder
