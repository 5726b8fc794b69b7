// Numbers as text, shared by whatever prints a tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "proto/wire/tensor.h"

namespace millrace {

// float16 and bfloat16 (as their bits) to the float of the same value, and the nearest float16 or
// bfloat16 (ties to even) of a float.
float HalfToFloat(uint16_t bits);
uint16_t FloatToHalf(float value);
float BfloatToFloat(uint16_t bits);
uint16_t FloatToBfloat(float value);

// Appends element `index` of `bytes`, read as `dtype`: integers in decimal, true and false, floats
// with the fewest digits that read back as the same value of their type; NaN, Infinity and
// -Infinity as Python's json spells them.
void AppendElement(DType dtype, const std::byte* bytes, size_t index, std::string& out);

// Appends the tensor as nested JSON arrays, a scalar as a bare number, and [] for a tensor of no
// elements (whose other dimensions could be of any size).
void AppendJson(const TensorView& tensor, std::string& out);

}  // namespace millrace
