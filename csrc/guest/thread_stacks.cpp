// See thread_stacks.h.
#include "guest/thread_stacks.h"

#include <Python.h>

#include <initializer_list>

namespace stepcoder::thread_stacks {
namespace {

PyObject* g_usual = nullptr;
uint64_t g_limit = UINT64_MAX;

PyObject* stack_size(PyObject* /*self*/, PyObject* arguments) {
  Py_ssize_t size = 0;
  if (!PyArg_ParseTuple(arguments, "|n:stack_size", &size)) return nullptr;
  if (size > 0 && static_cast<uint64_t>(size) > g_limit) size = static_cast<Py_ssize_t>(g_limit);
  return PyObject_CallFunction(g_usual, "n", size);
}

PyMethodDef g_stack_size{"stack_size", stack_size, METH_VARARGS,
                         "stack_size([size])\n\nSet the stack size of new threads."};

}  // namespace

bool prepare() {
  PyObject* ours = PyCFunction_New(&g_stack_size, nullptr);
  bool done = ours != nullptr;
  for (const char* name : {"_thread", "threading"}) {
    PyObject* module = done ? PyImport_ImportModule(name) : nullptr;
    if (module != nullptr && g_usual == nullptr)
      g_usual = PyObject_GetAttrString(module, "stack_size");
    done = g_usual != nullptr && module != nullptr &&
           PyObject_SetAttrString(module, "stack_size", ours) == 0;
    Py_XDECREF(module);
  }
  Py_XDECREF(ours);
  return done;
}

void limit(uint64_t bytes) { g_limit = bytes; }

}  // namespace stepcoder::thread_stacks
