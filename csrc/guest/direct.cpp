// See direct.h.
#include "guest/direct.h"

#include <array>
#include <string_view>

namespace stepcoder::direct {
namespace {

PyObject* g_filename = nullptr;
PyObject* g_leave = nullptr;
PyObject* g_on_class = nullptr;
newfunc g_type_new = nullptr;

// The beginnings of the audit events that are refused.
constexpr std::array<std::string_view, 16> kRefused{"object.__",
                                                    "sys._",
                                                    "sys.settrace",
                                                    "sys.setprofile",
                                                    "sys.addaudithook",
                                                    "gc.",
                                                    "code.__new__",
                                                    "function.",
                                                    "exec",
                                                    "compile",
                                                    "marshal.",
                                                    "pickle.",
                                                    "ctypes.",
                                                    "sys.monitoring",
                                                    "cpython.",
                                                    "builtins.breakpoint"};

bool called_by_program() {
  PyFrameObject* frame = PyEval_GetFrame();
  if (frame == nullptr) return false;
  PyCodeObject* code = PyFrame_GetCode(frame);
  const bool found = PyUnicode_Compare(code->co_filename, g_filename) == 0;
  Py_DECREF(code);
  return found;
}

int on_audit(const char* event, PyObject* /*arguments*/, void* /*data*/) {
  const std::string_view name(event);
  for (std::string_view refused : kRefused) {
    if (name.substr(0, refused.size()) != refused || !called_by_program()) continue;
    PyErr_Format(PyExc_RuntimeError, "%s is not available to the program under these tests", event);
    return -1;
  }
  return 0;
}

// What lends memory that is freed, or takes the address of an object from bytes. A program that
// uses it leaves the process that it shares with its tests (`guards.leave`, which does not return).

void leave(const char* what) { Py_XDECREF(PyObject_CallFunction(g_leave, "s", what)); }

constexpr std::array<const char*, 3> kBuffered{"BufferedReader", "BufferedRandom",
                                               "BufferedWriter"};
std::array<PyTypeObject*, 3> g_buffered{};
std::array<initproc, 3> g_buffered_init{};
PyTypeObject* g_file = nullptr;
PyTypeObject* g_bytes = nullptr;
newfunc g_array_new = nullptr;

// A buffered stream lends the memory of its buffer to the stream below it.
int init_buffered(PyObject* self, PyObject* arguments, PyObject* keywords) {
  PyObject* raw = PyTuple_GET_SIZE(arguments) > 0 ? PyTuple_GET_ITEM(arguments, 0) : nullptr;
  // Exactly these: a class below one of them may keep what it is lent.
  if (raw == nullptr || (Py_TYPE(raw) != g_file && Py_TYPE(raw) != g_bytes)) {
    leave("a buffered stream over an object of its own");
    return -1;
  }
  for (std::size_t i = 0; i < g_buffered.size(); ++i) {
    if (PyObject_TypeCheck(self, g_buffered[i])) {
      return g_buffered_init[i](self, arguments, keywords);
    }
  }
  return -1;
}

PyObject* new_array(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  const bool buffer = PyTuple_GET_SIZE(arguments) > 2 ||
                      (keywords != nullptr && PyDict_GetItemString(keywords, "buffer") != nullptr);
  if (buffer) {
    leave("an array over a buffer");
    return nullptr;
  }
  return g_array_new(type, arguments, keywords);
}

bool keep_memory() {
  PyObject* io = PyImport_ImportModule("_io");
  if (io == nullptr) return false;
  g_file = reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(io, "FileIO"));
  g_bytes = reinterpret_cast<PyTypeObject*>(PyObject_GetAttrString(io, "BytesIO"));
  if (g_file == nullptr || g_bytes == nullptr) return false;
  for (std::size_t i = 0; i < kBuffered.size(); ++i) {
    PyObject* found = PyObject_GetAttrString(io, kBuffered[i]);
    PyObject* init = found == nullptr ? nullptr : PyObject_GetAttrString(found, "__init__");
    if (init == nullptr) return false;
    g_buffered[i] = reinterpret_cast<PyTypeObject*>(found);
    g_buffered_init[i] = g_buffered[i]->tp_init;
    g_buffered[i]->tp_init = init_buffered;
    // What `__init__` calls if it is called by its name.
    reinterpret_cast<PyWrapperDescrObject*>(init)->d_wrapped =
        reinterpret_cast<void*>(init_buffered);
  }
  PyObject* numpy = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy");
  PyObject* array = numpy == nullptr ? nullptr : PyObject_GetAttrString(numpy, "ndarray");
  if (array == nullptr) {
    PyErr_Clear();
    return true;
  }
  PyTypeObject* type = reinterpret_cast<PyTypeObject*>(array);
  g_array_new = type->tp_new;
  type->tp_new = new_array;
  return true;
}

PyObject* new_class(PyTypeObject* meta, PyObject* arguments, PyObject* keywords) {
  PyObject* made = g_type_new(meta, arguments, keywords);
  if (made == nullptr) return nullptr;
  PyObject* done = PyObject_CallOneArg(g_on_class, made);
  if (done == nullptr) {
    Py_DECREF(made);
    return nullptr;
  }
  Py_DECREF(done);
  return made;
}

}  // namespace

bool refuse_introspection(PyObject* filename, PyObject* leave) {
  g_filename = Py_NewRef(filename);
  g_leave = Py_NewRef(leave);
  return keep_memory() && PySys_AddAuditHook(on_audit, nullptr) == 0;
}

bool watch_classes(PyObject* on_class) {
  if (g_on_class != nullptr) return true;
  g_on_class = Py_NewRef(on_class);
  g_type_new = PyType_Type.tp_new;
  PyType_Type.tp_new = new_class;
  return true;
}

void freeze(PyObject* class_list, bool immutable) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(class_list); ++i) {
    PyObject* item = PyList_GET_ITEM(class_list, i);
    if (!PyType_Check(item)) continue;
    unsigned long& flags = reinterpret_cast<PyTypeObject*>(item)->tp_flags;
    flags = immutable ? flags | Py_TPFLAGS_IMMUTABLETYPE : flags & ~Py_TPFLAGS_IMMUTABLETYPE;
  }
}

}  // namespace stepcoder::direct
