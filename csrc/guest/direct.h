// Holds a program in while tests run in its own process (guest/direct.py). Each call lasts for the
// rest of the process; the program must not be able to make one.
#pragma once

#include <Python.h>

namespace stepcoder::direct {

// Makes the interpreter refuse frames, code objects, tracing, new code and the collector's view of
// memory to code from the file `filename`. Code of other files may use them. Whoever makes an
// array over a buffer, or a buffered stream over what is no file, which would open all memory,
// calls leave(why), which ends the process.
bool refuse_introspection(PyObject* filename, PyObject* leave);

// Calls on_class(class) for each new class before its maker gets it; an exception ends its making.
bool watch_classes(PyObject* on_class);

// Makes classes immutable, so that setting their attributes raises TypeError, or mutable again.
void freeze(PyObject* class_list, bool immutable);

}  // namespace stepcoder::direct
