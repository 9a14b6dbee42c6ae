// See bindings_testing.h.
#include "bindings_testing.h"

#include <pybind11/stl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <tuple>
#include <vector>

#include "host/cgroup.h"
#include "wire/fd.h"
#include "worker/seccomp.h"
#include "worker/syscall_table.h"

namespace py = pybind11;

namespace stepcoder {
namespace {

// Makes one system call behind the filter, in a process of its own. Returns the number that was
// reported as a violation, or -1. Python code in the sandbox has no way to make most calls.
int try_filter(long number) {
  void* shared =
      mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw system_error("mmap");
  int* violation = static_cast<int*>(shared);
  *violation = -1;
  const auto filter = build_filter(true, false);
  const pid_t pid = checked(fork(), "fork");
  if (pid == 0) {
    report_violations_to(violation);
    install_filter(filter);
    syscall(number, 0, 0, 0, 0, 0, 0);
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
  const int result = *violation;
  munmap(shared, sizeof(int));
  return result;
}

}  // namespace

void bind_testing(py::module_& module) {
  module.def("try_filter", &try_filter);
  // The filter's instructions (code, jt, jf, k), and the table that it is made from.
  module.def("filter_program", [](bool own_pid_namespace, bool read_only_files) {
    std::vector<std::tuple<uint16_t, uint8_t, uint8_t, uint32_t>> program;
    for (const sock_filter& one : build_filter(own_pid_namespace, read_only_files))
      program.emplace_back(one.code, one.jt, one.jf, one.k);
    return program;
  });
  module.def("filter_rules", [] {
    std::vector<std::tuple<int, int, std::string>> rules;
    for (const SyscallRule& rule : syscall_rules())
      rules.emplace_back(rule.number, static_cast<int>(rule.rule), rule.name);
    return rules;
  });
  module.def("find_cgroup_parent", [](const std::string& cgroups, const std::string& mounts) {
    return find_cgroup_parent(cgroups, mounts);
  });
  module.def("remove_leftover_cgroups", &remove_leftovers);
  py::class_<Cgroup>(module, "Cgroup")
      .def(py::init<const CgroupParent&>())
      .def_property_readonly("folder", &Cgroup::folder)
      .def("add", &Cgroup::add)
      .def("allow_memory", &Cgroup::allow_memory)
      .def("ran_out_of_memory", &Cgroup::ran_out_of_memory);
}

}  // namespace stepcoder
