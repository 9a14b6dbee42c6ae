// See copied_code.h.
#include "guest/copied_code.h"

#include <frameobject.h>

#include <cstring>
#include <utility>

#include "guest/tracer.h"

namespace stepcoder::copied_code {
namespace {

PyObject* g_code = nullptr;
PyObject* g_filename = nullptr;
void (*g_found)() = nullptr;
bool g_hooked = false;

// True if the program calls what runs now itself, not through a library.
bool caller_is_program() {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  if (frame == nullptr) return false;
  PyCodeObject* code = PyFrame_GetCode(frame);
  const bool result = is_program_filename(code->co_filename);
  Py_DECREF(code);
  Py_DECREF(frame);
  return result;
}

// True if these instructions are those of `code` or of code in its constants. A copy has the same
// bytes object, which the interpreter keeps.
bool is_in(PyObject* code, PyObject* instructions) {
  PyObject* own = PyCode_GetCode(reinterpret_cast<PyCodeObject*>(code));
  Py_XDECREF(own);
  if (own == instructions) return true;
  PyObject* constants = reinterpret_cast<PyCodeObject*>(code)->co_consts;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); ++i) {
    PyObject* constant = PyTuple_GET_ITEM(constants, i);
    if (PyCode_Check(constant) && is_in(constant, instructions)) return true;
  }
  return false;
}

int on_audit(const char* event, PyObject* arguments, void* /*data*/) {
  const bool copies = std::strcmp(event, "code.__new__") == 0;
  if (copies || std::strcmp(event, "compile") == 0) {
    if (PyTuple_GET_SIZE(arguments) < 2) return 0;
    const bool is_named = is_program_filename(PyTuple_GET_ITEM(arguments, 1));
    if (copies && is_named && is_in(g_code, PyTuple_GET_ITEM(arguments, 0)))
      g_found();
    else if (is_named || (copies && caller_is_program()))
      tracer::break_seal();
  } else if (std::strcmp(event, "marshal.loads") == 0 && caller_is_program()) {
    g_found();
  }
  return 0;
}

}  // namespace

bool watch(PyObject* code, void (*found)()) {
  g_code = code;
  g_filename = Py_NewRef(reinterpret_cast<PyCodeObject*>(code)->co_filename);
  g_found = found;
  if (!std::exchange(g_hooked, true)) return PySys_AddAuditHook(on_audit, nullptr) == 0;
  return true;
}

void forget() { Py_CLEAR(g_filename); }

bool is_program_filename(PyObject* filename) {
  return filename == g_filename || (g_filename != nullptr && PyUnicode_Check(filename) &&
                                    PyUnicode_Compare(filename, g_filename) == 0);
}

}  // namespace stepcoder::copied_code
