// Control messages on their way from the judge to a worker, and from there to its child.
#pragma once

#include <optional>

#include "wire/fd.h"
#include "wire/protocol.h"

namespace stepcoder {

struct Received {
  ControlMessage message;
  UniqueFd channel;       // to the tester or the program, where there is one
  UniqueFd tester_board;  // for a program that serves a tester
  UniqueFd binary;        // of a C or C++ program
};

// Sends the descriptors along that are not -1. False if the other side is gone.
bool send_control(int socket, ControlMessage message, int channel, int tester_board = -1,
                  int binary = -1);

// Waits for a message; nullopt if the other side is gone.
std::optional<Received> receive_control(int socket);

}  // namespace stepcoder
