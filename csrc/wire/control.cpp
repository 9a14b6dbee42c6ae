// See control.h.
#include "wire/control.h"

#include <sys/socket.h>

#include <cstring>

namespace stepcoder {

bool send_order(int socket, const Order& order, int channel) {
  iovec part{const_cast<Order*>(&order), sizeof order};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (channel >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &channel, sizeof channel);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL) == sizeof order;
}

std::optional<Received> receive_order(int socket) {
  Received received;
  iovec part{&received.order, sizeof received.order};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got != static_cast<ssize_t>(sizeof received.order)) return std::nullopt;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header))
    if (header->cmsg_type == SCM_RIGHTS)
      received.channel = UniqueFd(*reinterpret_cast<int*>(CMSG_DATA(header)));
  return received;
}

}  // namespace stepcoder
