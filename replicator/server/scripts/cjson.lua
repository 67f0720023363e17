-- The library `cjson`, with its settings of Redis and its errors.
local NULL, _, check_order = ...
local error, next, pcall, rawequal, rawget = error, next, pcall, rawequal, rawget
local select, tonumber, tostring, type = select, tonumber, tostring, type
local byte, char, find, format, gsub, match, sub =
  string.byte, string.char, string.find, string.format, string.gsub, string.match, string.sub
local concat, floor = table.concat, math.floor

local encode_depth, decode_depth, precision
local sparse_convert, sparse_ratio, sparse_safe

-- Encoding

local ESCAPES = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n", ["\r"] = "\\r",
  ["\t"] = "\\t",
}
local function escape(c) return ESCAPES[c] or format("\\u%04x", byte(c)) end
local function quoted(text) return '"' .. gsub(text, '[%c"\\/%z]', escape) .. '"' end

local function number_text(value)
  if value ~= value or value == 1 / 0 or value == -1 / 0 then
    error("Cannot serialise number: must not be NaN or Inf", 0)
  end
  return format("%." .. precision .. "g", value)
end

-- The length if all keys are positive integers, else -1.
local function array_length(t)
  local longest, count = 0, 0
  for key in next, t do
    if type(key) ~= "number" or key < 1 or floor(key) ~= key then return -1 end
    if key > longest then longest = key end
    count = count + 1
  end
  if sparse_ratio > 0 and longest > count * sparse_ratio and longest > sparse_safe then
    if not sparse_convert then error("Cannot serialise table: excessively sparse array", 0) end
    return -1
  end
  return longest
end

local encode_value

local function encode_table(t, depth)
  if depth > encode_depth then error("Cannot serialise, excessive nesting (" .. depth .. ")", 0) end
  local length, parts = array_length(t), {}
  if length > 0 then
    for i = 1, length do parts[i] = encode_value(rawget(t, i), depth) end
    return "[" .. concat(parts, ",") .. "]"
  end
  check_order(t)
  for key, value in next, t do
    local kind = type(key)
    if kind == "number" then
      key = '"' .. number_text(key) .. '":'
    elseif kind == "string" then
      key = quoted(key) .. ":"
    else
      error("Cannot serialise " .. kind .. ": table key must be a number or string", 0)
    end
    parts[#parts + 1] = key .. encode_value(value, depth)
  end
  return "{" .. concat(parts, ",") .. "}"
end

function encode_value(value, depth)
  local kind = type(value)
  if kind == "string" then return quoted(value) end
  if kind == "number" then return number_text(value) end
  if kind == "table" then return encode_table(value, depth + 1) end
  if kind == "boolean" then return value and "true" or "false" end
  if kind == "nil" or rawequal(value, NULL) then return "null" end
  error("Cannot serialise " .. kind .. ": type not supported", 0)
end

-- Decoding

local PUNCTUATION = {
  [123] = "T_OBJ_BEGIN", [125] = "T_OBJ_END", [91] = "T_ARR_BEGIN", [93] = "T_ARR_END", [44] = "T_COMMA",
  [58] = "T_COLON",
}
local UNESCAPED = {
  [34] = '"', [92] = "\\", [47] = "/", [98] = "\b", [102] = "\f", [110] = "\n", [114] = "\r", [116] = "\t",
}
local INVALID = "invalid token"
local MAX_NUMBER_BYTES = 400

local text, at, start, value -- the document, the index of the next token, that of the last one, and its value

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xc0 + floor(code / 64), 0x80 + code % 64) end
  local last = 0x80 + code % 64
  local middle = 0x80 + floor(code / 64) % 64
  if code < 0x10000 then return char(0xe0 + floor(code / 4096), middle, last) end
  return char(0xf0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, middle, last)
end

local function code_unit(index)
  local digits = match(text, "^\\u(%x%x%x%x)", index)
  return digits and tonumber(digits, 16)
end

-- Returns the text and how many bytes it takes in the document; nil: invalid.
local function unicode(index)
  local code = code_unit(index)
  if not code or (code >= 0xdc00 and code < 0xe000) then return nil end
  if code < 0xd800 or code >= 0xe000 then return utf8(code), 6 end
  local second = code_unit(index + 6)
  if not second or second < 0xdc00 or second >= 0xe000 then return nil end
  return utf8((code - 0xd800) * 1024 + second - 0xdc00 + 0x10000), 12
end

local function string_token()
  local stop = find(text, '["\\]', at)
  if stop and byte(text, stop) == 34 then
    value = sub(text, at, stop - 1)
    at = stop + 1
    return "T_STRING"
  end
  local parts, from = {}, at
  while stop and byte(text, stop) == 92 do
    parts[#parts + 1] = sub(text, from, stop - 1)
    local c = byte(text, stop + 1)
    if c == 117 then
      local decoded, size = unicode(stop)
      if not decoded then return "invalid unicode escape code", stop end
      parts[#parts + 1] = decoded
      from = stop + size
    else
      local plain = UNESCAPED[c]
      if not plain then return "invalid escape code", stop end
      parts[#parts + 1] = plain
      from = stop + 2
    end
    stop = find(text, '["\\]', from)
  end
  if not stop then return "unexpected end of string", #text + 1 end
  parts[#parts + 1] = sub(text, from, stop - 1)
  value = concat(parts)
  at = stop + 1
  return "T_STRING"
end

local NAMES = { ["true"] = "T_BOOLEAN", ["false"] = "T_BOOLEAN", ["null"] = "T_NULL" }

local function number_token()
  local rest = sub(text, at, at + MAX_NUMBER_BYTES - 1) -- the time of a match grows with the square of its length
  local word = match(rest, "^[+-]?0[xX]%x+")
    or match(rest, "^[+-]?%d+%.?%d*[eE][+-]?%d+") or match(rest, "^[+-]?%.%d+[eE][+-]?%d+")
    or match(rest, "^[+-]?%d+%.?%d*") or match(rest, "^[+-]?%.%d+")
  if word then
    local sign, digits = match(word, "^([+-]?)(.*)$")
    value = tonumber(digits)
  else
    word = match(text, "^[+-]?[iI][nN][fF][iI][nN][iI][tT][yY]", at) or match(text, "^[+-]?[iI][nN][fF]", at)
    value = 1 / 0
    if not word then
      word = match(text, "^[+-]?[nN][aA][nN]", at)
      value = 0 / 0
    end
  end
  if not word then return "invalid number" end
  if byte(word) == 45 then value = -value end
  at = at + #word
  return "T_NUMBER"
end

local function token()
  at = find(text, "[^ \t\n\r]", at) or #text + 1
  start = at
  local c = byte(text, at)
  if not c then return "T_END" end
  local kind = PUNCTUATION[c]
  if kind then
    at = at + 1
    return kind
  end
  if c == 34 then
    at = at + 1
    local failed
    kind, failed = string_token()
    if failed then start = failed end
    return kind
  end
  local word = match(text, "^[a-z]+", at)
  if word and NAMES[word] then
    at = at + #word
    if word == "null" then value = NULL else value = word == "true" end
    return NAMES[word]
  end
  if find(text, "^[%d+-]", at) or find(text, "^[iI][nN][fF]", at) or find(text, "^[nN][aA][nN]", at) then
    return number_token()
  end
  return INVALID
end

local function unexpected(expected, kind)
  error("Expected " .. expected .. " but found " .. kind .. " at character " .. start, 0)
end

local decode_value

local function check_depth(depth)
  if depth > decode_depth then
    error("Found too many nested data structures (" .. depth .. ") at character " .. start, 0)
  end
end

local function decode_object(depth)
  check_depth(depth)
  local object = {}
  local kind = token()
  if kind == "T_OBJ_END" then return object end
  while true do
    if kind ~= "T_STRING" then unexpected("object key string", kind) end
    local key = value
    kind = token()
    if kind ~= "T_COLON" then unexpected("colon", kind) end
    object[key] = decode_value(token(), depth)
    kind = token()
    if kind == "T_OBJ_END" then return object end
    if kind ~= "T_COMMA" then unexpected("comma or object end", kind) end
    kind = token()
  end
end

local function decode_array(depth)
  check_depth(depth)
  local array, n = {}, 0
  local kind = token()
  if kind == "T_ARR_END" then return array end
  while true do
    n = n + 1
    array[n] = decode_value(kind, depth)
    kind = token()
    if kind == "T_ARR_END" then return array end
    if kind ~= "T_COMMA" then unexpected("comma or array end", kind) end
    kind = token()
  end
end

function decode_value(kind, depth)
  if kind == "T_STRING" or kind == "T_NUMBER" or kind == "T_BOOLEAN" or kind == "T_NULL" then return value end
  if kind == "T_OBJ_BEGIN" then return decode_object(depth + 1) end
  if kind == "T_ARR_BEGIN" then return decode_array(depth + 1) end
  unexpected("value", kind)
end

local function decode_document(document)
  text, at = document, 1
  local decoded = decode_value(token(), 0)
  local kind = token()
  if kind ~= "T_END" then unexpected("the end", kind) end
  return decoded
end

-- The module

local function one_argument(name, ...)
  if select("#", ...) ~= 1 then error("bad argument #1 to '" .. name .. "' (expected 1 argument)", 3) end
  return (...)
end

local function finish(ok, ...)
  if ok then return ... end
  error((gsub((...), "^cjson:%d+: ", "", 1)), 3)
end

local function encode(...)
  local given = one_argument("encode", ...)
  return finish(pcall(encode_value, given, 0))
end

local function decode(...)
  local document = one_argument("decode", ...)
  if type(document) == "number" then document = tostring(document) end
  if type(document) ~= "string" then
    error("bad argument #1 to 'decode' (string expected, got " .. type(document) .. ")", 2)
  end
  return finish(pcall(decode_document, document))
end

local function setting(get, set)
  return function(...)
    if select("#", ...) > 0 and (...) ~= nil then set(...) end
    return get()
  end
end

local cjson = {
  encode = encode, decode = decode, _NAME = "cjson", _VERSION = "2.1.0",
  encode_max_depth = setting(function() return encode_depth end, function(n) encode_depth = tonumber(n) end),
  decode_max_depth = setting(function() return decode_depth end, function(n) decode_depth = tonumber(n) end),
  encode_number_precision = setting(
    function() return precision end,
    function(n) if n >= 1 and n <= 14 then precision = floor(n) end end
  ),
  encode_sparse_array = setting(
    function() return sparse_convert, sparse_ratio, sparse_safe end,
    function(convert, ratio, safe)
      sparse_convert, sparse_ratio, sparse_safe = convert, ratio or sparse_ratio, safe or sparse_safe
    end
  ),
  encode_keep_buffer = function() return true end,
  encode_invalid_numbers = function() return false end,
  decode_invalid_numbers = function() return true end,
}
cjson.new = function() return cjson end
cjson.null = NULL

local function reset()
  encode_depth, decode_depth, precision = 1000, 1000, 14
  sparse_convert, sparse_ratio, sparse_safe = false, 2, 10
  text, value = nil, nil
end
reset()

return cjson, reset
