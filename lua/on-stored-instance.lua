-- Tells the imaging router, at once, that Orthanc has stored an instance.
--
-- What it does: for every stored instance whose SOP class is in the list below, it POSTs the instance's Orthanc identifier and its
-- origin (which modality, peer or user sent it) to the router. It sends no patient data and no pixels, and waits for no classification:
-- the router answers as soon as it has written the identifier down. An instance that this script misses, because the router is down or
-- the network is, is not lost: the router also follows Orthanc's log of changes. So this is a hint that saves a second or two.
--
-- Installing: add it to "LuaScripts" in Orthanc's configuration, as the last one, and give it the router's address and token:
--     "LuaScripts": ["/etc/orthanc/on-stored-instance.lua"]
--     IMAGING_ROUTER_URL=http://imaging-router:8081  IMAGING_ROUTER_TOKEN_FILE=/run/secrets/router-hook-token   (Orthanc's environment)
-- An OnStoredInstance of your own goes on working: this one calls it, whatever happens here. A script that is loaded after this one
-- and defines OnStoredInstance replaces it, unless it calls the earlier one as well.
-- `imaging-router check` tells whether the hook arrives.
--
-- What it costs: an instance of another SOP class (CT, MR, …) costs microseconds and no request. While a Lua callback runs, all of
-- Orthanc waits, so: a router that is there costs a millisecond or two, one that refuses the connection less, and one that swallows it (a
-- firewall that drops) at most the one second of timeout, once; after a failure the script sends nothing for 30 seconds.
--
-- Works with Orthanc 1.12 and newer. For https with a private CA set Orthanc's "HttpsCACertificates".

local settings = {
  -- Where the router listens. IMAGING_ROUTER_URL
  url = 'http://127.0.0.1:8081',

  -- The token of the router's configuration (server.hook_token_file). IMAGING_ROUTER_TOKEN
  token = '',

  -- Or the file that holds it; read when Orthanc starts. IMAGING_ROUTER_TOKEN_FILE
  token_file = '',

  -- The SOP classes to tell about, separated by commas or spaces. IMAGING_ROUTER_SOP_CLASSES
  sop_classes = '1.2.840.10008.5.1.4.1.1.1'         -- Computed Radiography
    .. ',1.2.840.10008.5.1.4.1.1.1.1'               -- Digital X-Ray, for presentation
    .. ',1.2.840.10008.5.1.4.1.1.1.1.1'             -- Digital X-Ray, for processing
    .. ',1.2.840.10008.5.1.4.1.1.12.1'              -- X-Ray Angiography
    .. ',1.2.840.10008.5.1.4.1.1.12.2',             -- X-Ray Radiofluoroscopy

  -- Whether Secondary Capture (one frame) is told about too: dose reports and screenshots live there beside scanned
  -- X-rays. true or false. IMAGING_ROUTER_SECONDARY_CAPTURE
  secondary_capture = 'false',

  -- For how many seconds nothing is sent after a failure. IMAGING_ROUTER_SILENCE
  silence = '30',
}

-- Everything below is local to this file, so that it cannot clash with another script.

for name in pairs(settings) do
  local value = os.getenv('IMAGING_ROUTER_' .. string.upper(name))
  if value ~= nil and value ~= '' then
    settings[name] = value
  end
end

local url = string.gsub(settings.url, '/+$', '') .. '/hooks/stored-instance'
local silence = tonumber(settings.silence) or 30
local failedAt = nil

local function trimmed(text)
  return (string.gsub(string.gsub(text, '^%s+', ''), '%s+$', ''))
end

local function readToken()
  if settings.token_file == '' then
    return trimmed(settings.token)
  end
  local file = io.open(settings.token_file, 'r')
  if file == nil then
    print('imaging router: the token file cannot be read: ' .. settings.token_file)
    return ''
  end
  local text = file:read('*a') or ''
  file:close()
  return trimmed(text)
end

local token = readToken()
if token == '' then
  print('imaging router: no token is set, so the router will refuse what this Orthanc sends')
  token = 'none'
end

-- With an Authorization header of our own, the user and password that another script may have set for its requests
-- (SetHttpCredentials holds for all scripts) are not sent to the router; and they stay set for that script.
local headers = { ['Content-Type'] = 'application/json', ['Authorization'] = 'Bearer ' .. token }

-- What the timeout is set back to after our request: all scripts share it.
local usualTimeout = tonumber((GetOrthancConfiguration() or {})['HttpTimeout']) or 60

local wanted = {}
for class in string.gmatch(settings.sop_classes, '[%d%.]+') do
  wanted[class] = true
end
if settings.secondary_capture == 'true' or settings.secondary_capture == '1' then
  wanted['1.2.840.10008.5.1.4.1.1.7'] = true
end

local function isSilent()
  if failedAt == nil then
    return false
  end
  local since = os.time() - failedAt
  return since >= 0 and since < silence -- a clock that was set back does not make it silent for longer
end

local function tell(instance, metadata, origin)
  if not wanted[metadata['SopClassUid']] or isSilent() then
    return
  end
  SetHttpTimeout(1) -- seconds; the least there is, since 0 means for ever
  -- "true" keeps texts texts: DumpJson would turn an AET of digits into a number.
  local answer = HttpPost(url, DumpJson({ instance = instance, origin = origin }, true), headers)
  SetHttpTimeout(usualTimeout)
  -- Without a connection the answer is nil. With an error status it is a text all the same (the body, in 1.12 an empty one), so
  -- success is known by what the router says then: {"accepted":1}.
  if answer == nil or not string.find(answer, '"accepted"', 1, true) then
    failedAt = os.time()
    print('imaging router: not told about instance ' .. instance .. '; silent for ' .. silence .. ' s (it catches up by itself)')
  end
end

local function guarded(what, callback, ...)
  local ok, message = pcall(callback, ...)
  if not ok then
    print('imaging router: error in ' .. what .. ': ' .. tostring(message))
  end
end

local previous = OnStoredInstance

function OnStoredInstance(instance, tags, metadata, origin)
  guarded('on-stored-instance.lua', tell, instance, metadata, origin)
  if previous ~= nil then
    guarded('the OnStoredInstance that was defined before it', previous, instance, tags, metadata, origin)
  end
end

print('imaging router: stored instances are told to ' .. url)
