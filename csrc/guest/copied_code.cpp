// See copied_code.h.
#include "guest/copied_code.h"

#include <frameobject.h>

#include <cstring>
#include <utility>

namespace stepcoder::copied_code {
namespace {

PyObject* g_filename = nullptr;
void (*g_found)() = nullptr;
bool g_made_foreign_code = false;
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

int on_audit(const char* event, PyObject* arguments, void* /*data*/) {
  const bool copies = std::strcmp(event, "code.__new__") == 0;
  if (copies || std::strcmp(event, "compile") == 0) {
    if (PyTuple_GET_SIZE(arguments) < 2) return 0;
    if (is_program_filename(PyTuple_GET_ITEM(arguments, 1)))
      g_found();
    else if (copies && caller_is_program())
      g_made_foreign_code = true;
  } else if (std::strcmp(event, "marshal.loads") == 0 && caller_is_program()) {
    g_found();
  }
  return 0;
}

}  // namespace

bool watch(PyObject* filename, void (*found)()) {
  g_filename = Py_NewRef(filename);
  g_found = found;
  if (!std::exchange(g_hooked, true)) return PySys_AddAuditHook(on_audit, nullptr) == 0;
  return true;
}

void forget() { Py_CLEAR(g_filename); }

bool is_program_filename(PyObject* filename) {
  return filename == g_filename || (g_filename != nullptr && PyUnicode_Check(filename) &&
                                    PyUnicode_Compare(filename, g_filename) == 0);
}

bool made_foreign_code() { return g_made_foreign_code; }

}  // namespace stepcoder::copied_code
