// See tracer.h: the bitmap, and what runs from Python 3.12 on (3.11: tracer_311.cpp).
#include "guest/tracer.h"

#include <initializer_list>
#include <vector>

#include "guest/copied_code.h"
#include "wire/line_seal.h"

namespace stepcoder::tracer {
namespace {

uint8_t* g_bitmap = nullptr;
uint64_t* g_seal = nullptr;
std::vector<uint64_t> g_keys;

}  // namespace

void take_keys(uint64_t secret, uint64_t lines) {
  g_keys.resize(lines);
  for (uint64_t line = 0; line < lines; ++line) g_keys[line] = first_key(secret, line);
}

void note(int64_t line) {
  if (line <= 0 || static_cast<uint64_t>(line) >= g_keys.size()) return;
  const auto bit = static_cast<uint8_t>(1U << (line & 7));
  if ((g_bitmap[line >> 3] & bit) != 0) return;
  g_bitmap[line >> 3] = static_cast<uint8_t>(g_bitmap[line >> 3] | bit);
  *g_seal += g_keys[line];
  g_keys[line] = next_key(g_keys[line]);
}

void break_seal() {
  *g_seal += g_keys[0];  // no bitmap names a line 0
  g_keys[0] = next_key(g_keys[0]);
}

void set_bitmap(uint8_t* bitmap, uint64_t* seal) {
  g_bitmap = bitmap;
  g_seal = seal;
}

#if PY_VERSION_HEX >= 0x030C0000

namespace {

constexpr int kTool = 4;  // the ids 0-3 and 5 have conventional owners
PyObject* g_restart = nullptr;
PyObject* g_set_local_events = nullptr;
PyObject* g_get_tool = nullptr;
PyObject* g_set_events = nullptr;
PyObject* g_code = nullptr;
bool g_everything = false;  // not only the program's code is watched
PyObject* g_disable = nullptr;
PyObject* g_line_event = nullptr;

PyObject* on_line(PyObject* /*self*/, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2 || !PyCode_Check(arguments[0])) return Py_NewRef(g_disable);
  PyObject* filename = reinterpret_cast<PyCodeObject*>(arguments[0])->co_filename;
  if (!g_everything || copied_code::is_program_filename(filename))
    note(PyLong_AsLongLong(arguments[1]));
  return Py_NewRef(g_disable);
}

// A program may call restart_events(), which is harmless. It may not free our tool id or set its
// events.
PyMethodDef g_on_line{"on_line", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(on_line)),
                      METH_FASTCALL, nullptr};

PyObject* refuse(PyObject* /*self*/, PyObject* const* /*arguments*/, Py_ssize_t /*count*/) {
  Py_RETURN_NONE;
}

PyMethodDef g_refuse{"refused", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(refuse)),
                     METH_FASTCALL, nullptr};

// Watches all code from here on, since copies of the program's code are not watched one by one.
void watch_everything() {
  g_everything = true;
  PyObject* done = PyObject_CallFunction(g_set_events, "iO", kTool, g_line_event);
  Py_XDECREF(done);
  PyErr_Clear();
}

bool watch(PyObject* code) {
  PyObject* done = PyObject_CallFunction(g_set_local_events, "iOO", kTool, code, g_line_event);
  if (done == nullptr) return false;
  Py_DECREF(done);
  PyObject* constants = reinterpret_cast<PyCodeObject*>(code)->co_consts;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(constants); ++i) {
    PyObject* constant = PyTuple_GET_ITEM(constants, i);
    if (PyCode_Check(constant) && !watch(constant)) return false;
  }
  return true;
}

}  // namespace

bool prepare() {
  PyObject* monitoring = PySys_GetObject("monitoring");
  if (monitoring == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "sys.monitoring is missing");
    return false;
  }
  PyObject* done = PyObject_CallMethod(monitoring, "use_tool_id", "is", kTool, "lines");
  if (done == nullptr) return false;
  Py_DECREF(done);
  PyObject* events = PyObject_GetAttrString(monitoring, "events");
  PyObject* function = PyCFunction_New(&g_on_line, nullptr);
  PyObject* refusal = PyCFunction_New(&g_refuse, nullptr);
  if (events == nullptr || function == nullptr || refusal == nullptr) return false;
  g_line_event = PyObject_GetAttrString(events, "LINE");
  g_disable = PyObject_GetAttrString(monitoring, "DISABLE");
  g_restart = PyObject_GetAttrString(monitoring, "restart_events");
  g_set_local_events = PyObject_GetAttrString(monitoring, "set_local_events");
  g_get_tool = PyObject_GetAttrString(monitoring, "get_tool");
  g_set_events = PyObject_GetAttrString(monitoring, "set_events");
  if (g_line_event == nullptr || g_disable == nullptr || g_restart == nullptr ||
      g_set_local_events == nullptr || g_get_tool == nullptr || g_set_events == nullptr)
    return false;
  PyObject* previous =
      PyObject_CallMethod(monitoring, "register_callback", "iOO", kTool, g_line_event, function);
  if (previous == nullptr) return false;
  Py_DECREF(previous);
  Py_DECREF(function);
  Py_DECREF(events);
  // From here on only this file can change what is watched.
  for (const char* name : {"free_tool_id", "clear_tool_id", "set_events", "set_local_events",
                           "register_callback", "use_tool_id"})
    if (PyObject_HasAttrString(monitoring, name) != 0 &&
        PyObject_SetAttrString(monitoring, name, refusal) != 0)
      return false;
  Py_DECREF(refusal);
  return true;
}

PyObject* start(PyObject* code) {
  if (g_code != nullptr || !PyCode_Check(code)) return Py_NewRef(code);  // called by a program
  g_code = Py_NewRef(code);
  if (!copied_code::watch(code, watch_everything) || !watch(code)) return nullptr;
  return Py_NewRef(code);
}

void forget() {
  Py_CLEAR(g_code);
  copied_code::forget();
}

bool restart() {
  PyObject* done = PyObject_CallNoArgs(g_restart);
  Py_XDECREF(done);
  return done != nullptr;
}

bool intact() {
  PyObject* tool = PyObject_CallFunction(g_get_tool, "i", kTool);
  bool ours = tool != nullptr && tool != Py_None;
  Py_XDECREF(tool);
  PyErr_Clear();
  return ours;
}

#endif

}  // namespace stepcoder::tracer
