// Orders to run, on their way from the judge to a worker and from there to its child.
#pragma once

#include <optional>

#include "wire/fd.h"
#include "wire/protocol.h"

namespace stepcoder {

struct Received {
  Order order;
  UniqueFd channel;  // to the tester or the program, where there is one
};

// `channel` is -1 or a descriptor that goes along. False if nobody is there.
bool send_order(int socket, const Order& order, int channel);

// Waits for an order; nothing where the other side is gone.
std::optional<Received> receive_order(int socket);

}  // namespace stepcoder
