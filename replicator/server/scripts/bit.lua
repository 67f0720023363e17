-- The library `bit`: operations on 32-bit integers.
local _, bits = ...
local error, select, tonumber, type = error, select, tonumber, type

local function number(name, n, value)
  local converted = tonumber(value)
  if not converted then
    error("bad argument #" .. n .. " to '" .. name .. "' (number expected, got " .. type(value) .. ")", 3)
  end
  converted = converted % 4294967296
  return converted == converted and converted or 0
end

local function folded(name)
  return function(...)
    local result = number(name, 1, (...))
    for i = 2, select("#", ...) do result = bits(name, result, number(name, i, (select(i, ...)))) % 4294967296 end
    return bits("tobit", result, 0)
  end
end

local function of_two(name)
  return function(a, b) return bits(name, number(name, 1, a), number(name, 2, b)) end
end

local function tohex(value, digits)
  digits = digits == nil and 8 or number("tohex", 2, digits)
  local text = string.format("%08x", number("tohex", 1, value))
  if digits >= 2147483648 then text, digits = string.upper(text), 4294967296 - digits end
  return string.sub(text, -math.min(digits, 8))
end

return {
  tobit = function(a) return bits("tobit", number("tobit", 1, a), 0) end,
  bnot = function(a) return bits("bnot", number("bnot", 1, a), 0) end,
  bswap = function(a) return bits("bswap", number("bswap", 1, a), 0) end,
  band = folded("band"), bor = folded("bor"), bxor = folded("bxor"),
  lshift = of_two("lshift"), rshift = of_two("rshift"), arshift = of_two("arshift"),
  rol = of_two("rol"), ror = of_two("ror"), tohex = tohex,
}, function() end
