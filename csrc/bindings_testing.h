// What only tests call: the seccomp filter and the cgroups, each by itself.
#pragma once

#include <pybind11/pybind11.h>

namespace stepcoder {

void bind_testing(pybind11::module_& module);

}  // namespace stepcoder
