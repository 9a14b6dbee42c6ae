// See direct.h.
#include "guest/direct.h"

#include <array>
#include <string_view>

namespace stepcoder::direct {
namespace {

PyObject* g_filename = nullptr;
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

bool refuse_introspection(PyObject* filename) {
  g_filename = Py_NewRef(filename);
  return PySys_AddAuditHook(on_audit, nullptr) == 0;
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
