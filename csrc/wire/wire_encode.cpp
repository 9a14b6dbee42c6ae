// See wire.h: encodes values.
#include "wire/wire.h"
#include "wire/wire_tags.h"

namespace stepcoder {
namespace {

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

}  // namespace

Encoded encode_value(PyObject* value, size_t max_bytes, Extension extension) {
  return Encoder(max_bytes, extension).run(value);
}

}  // namespace stepcoder
