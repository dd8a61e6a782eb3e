// SPDX-License-Identifier: Apache-2.0
//
// As much ACPI Machine Language (ACPI 6.5, chapter 20) as the DSDT needs: terms are byte strings
// that contain each other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::boot::aml {

using Term = std::vector<uint8_t>;

/// Terms one after the other.
Term sequence(const std::vector<Term>& terms);
/// Name(name, value); `name` has four characters.
Term name(std::string_view name, const Term& value);
Term integer(uint32_t value);
Term string(std::string_view text);
Term package(const std::vector<Term>& elements);
/// Scope(path) { body }; `path` is a name, or "\\" and a name.
Term scope(std::string_view path, const Term& body);
Term device(std::string_view name, const Term& body);
/// Method(name, arguments, Serialized) { body }.
Term method(std::string_view name, uint8_t arguments, const Term& body);
/// Notify(object, value); `object` has four characters.
Term notify(std::string_view object, uint8_t value);
/// ResourceTemplate() { resources }.
Term resource_template(const std::vector<Term>& resources);
/// Memory32Fixed(ReadWrite, base, size).
Term memory32_fixed(uint32_t base, uint32_t size);
/// Interrupt(ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }.
Term edge_interrupt(uint32_t gsi);
/// IO(Decode16, port, port, 1, size).
Term io_port(uint16_t port, uint8_t size);

}  // namespace mayfly::boot::aml
