// Line probes in the bytecode of Python 3.11.
//
// Takes a code object and gives a copy of it, and of the code in its constants, that calls the
// tracer wherever settrace would report a line. A probe is two instructions, LOAD_ASSERTION_ERROR
// and POP_JUMP_FORWARD_IF_TRUE 0. It needs no constant, name or object that a program could find,
// and does nothing in a copy of the code. The truth test calls a function of tracer_311.cpp.
#pragma once

#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000

#include <vector>

namespace stepcoder::probes {

struct Probe {
  _Py_CODEUNIT* unit;  // the first of its two instructions, in the code object
  int line;
};

struct Probed {
  // In the order of their addresses once sorted; all armed.
  std::vector<Probe> probes;
  // Copies in which a resumed frame can reach a probe on the line on which it was suspended.
  // settrace does not report that line unless the frame enters it anew.
  std::vector<PyObject*> ambiguous;
};

// Returns the copy (a new reference), or nullptr: with a Python error set, or without one if the
// compiler does not lay code out this way.
PyObject* add(PyCodeObject* code, Probed& probed);

void arm(const Probe& probe);
void disarm(const Probe& probe);

}  // namespace stepcoder::probes

#endif
