-- Sends X-rays on by body part, inside Orthanc, for sites that route there and not by the router's own rules.
--
-- What it does: when a study is stable, it reads of each of its X-rays what the imaging router has found (metadata BodyPart and
-- BodyPartResult) and has Orthanc send it to the destinations of its class, each X-ray to each destination once. An X-ray whose result comes
-- later is sent when it comes. One that is under review, or has no result, is not sent.
--
-- Choose one: this script, or rules and forwarding.enabled in the router's configuration. With both, everything is sent twice.
--
-- Its limits, which the router's own forwarding does not have (docs/routing.md):
--   * It does not try again. What Orthanc's job could not deliver has failed (GET /jobs); a restart of Orthanc between result and sending can
--     lose it as well. An error when the job is made (an unknown peer) is logged, and tried again at the next change of the X-ray only.
--   * No expressions, no hours, no brake, no limit of age: an archive that the router labels from its beginning is sent on from its beginning.
--   * While a Lua callback runs, all of Orthanc waits: some milliseconds for each X-ray of a study.
--
-- Installing: put your destinations into the table below, or into Orthanc's environment, and add it to "LuaScripts", as the last one:
--     "LuaScripts": ["/etc/orthanc/on-stored-instance.lua", "/etc/orthanc/route-by-bodypart.lua"]
--     IMAGING_ROUTER_ROUTES=adult_chest=peer:chest-ai,modality:PACS;spine=peer:spine-ai
-- Callbacks of your own go on working: this script calls those that are defined before it.
--
-- Works with Orthanc 1.12 and newer.

local settings = {
  -- Class = destinations, separated by commas; classes by semicolons. A destination is peer:NAME (an entry of OrthancPeers) or
  -- modality:NAME (an entry of DicomModalities). Classes: abdominal, adult_chest, pediatric_chest, spine, others.
  -- IMAGING_ROUTER_ROUTES
  routes = ''
    -- .. 'adult_chest=peer:chest-ai;'
    -- .. 'pediatric_chest=peer:chest-ai;'
    -- .. 'spine=peer:spine-ai,modality:PACS;'
    ,

  -- By what account or AET a destination sends to this Orthanc: what came from there is not sent back. A modality's own AET need
  -- not be named. Such as 'peer:chest-ai=chest-ai-account'. IMAGING_ROUTER_SENDERS
  senders = '',

  -- What is waited for: 'study' or 'series' until no more arrives (Orthanc's StableAge), 'instance' for nothing but the result.
  -- IMAGING_ROUTER_LEVEL
  level = 'study',

  -- Modalities that are looked at, so that a CT of two thousand slices costs nothing. IMAGING_ROUTER_MODALITIES
  modalities = 'CR,DX,XA,RF,DR,SC,OT',

  -- Whether copies made by Orthanc's modify and anonymise are sent. true or false. IMAGING_ROUTER_COPIES
  copies = 'false',

  -- Numbers of the router's metadata (publish.metadata), and of this script's memory: to where an X-ray was sent.
  -- IMAGING_ROUTER_METADATA_BODY_PART, IMAGING_ROUTER_METADATA_RESULT, IMAGING_ROUTER_METADATA_ROUTED
  metadata_body_part = '5110',
  metadata_result = '5111',
  metadata_routed = '5114',
}

-- Everything below is local to this file, so that it cannot clash with another script.

for name in pairs(settings) do
  local value = os.getenv('IMAGING_ROUTER_' .. string.upper(name))
  if value ~= nil and value ~= '' then
    settings[name] = value
  end
end

local function say(text)
  print('imaging router, routing: ' .. text)
end

-- parsed turns 'a=x,y;b=z' into { a = { 'x', 'y' }, b = { 'z' } }.
local function parsed(text)
  local out = {}
  for entry in string.gmatch(text, '[^;]+') do
    local key, values = string.match(entry, '^%s*([^=%s]+)%s*=%s*(.-)%s*$')
    if key == nil then
      if string.match(entry, '%S') then
        say('not understood, and left out: ' .. entry)
      end
    else
      out[key] = out[key] or {}
      for value in string.gmatch(values, '[^,%s]+') do
        table.insert(out[key], value)
      end
    end
  end
  return out
end

local classes = { abdominal = true, adult_chest = true, pediatric_chest = true, spine = true, others = true }
local routes = parsed(settings.routes)
local senders = parsed(settings.senders)
local wanted = {}
for modality in string.gmatch(settings.modalities, '[%w_]+') do
  wanted[modality] = true
end
if settings.level ~= 'study' and settings.level ~= 'series' and settings.level ~= 'instance' then
  say('level must be study, series or instance, it is ' .. settings.level .. ': taken for study')
  settings.level = 'study'
end

for class, destinations in pairs(routes) do
  if not classes[class] then
    say('"' .. class .. '" is not a class (abdominal, adult_chest, pediatric_chest, spine, others)')
    routes[class] = nil
  end
  for i = #destinations, 1, -1 do
    if not string.match(destinations[i], '^peer:[%w%._%-]+$') and not string.match(destinations[i], '^modality:[%w%._%-]+$') then
      say('"' .. destinations[i] .. '" is not peer:NAME or modality:NAME, and is left out')
      table.remove(destinations, i)
    end
  end
end

-- get asks Orthanc itself; nil when the resource is not there (any more).
local function get(path)
  local answer = RestApiGet(path)
  if answer == nil then
    return nil
  end
  return ParseJson(answer)
end

local function contains(list, value)
  for _, one in ipairs(list or {}) do
    if one == value then
      return true
    end
  end
  return false
end

-- cameFrom says whether an X-ray came from the destination.
local function cameFrom(metadata, destination)
  if contains(senders[destination], metadata['HttpUsername']) or contains(senders[destination], metadata['RemoteAET']) then
    return true
  end
  local modality = string.match(destination, '^modality:(.+)$')
  if modality == nil or metadata['RemoteAET'] == nil then
    return false
  end
  local known = (get('/modalities?expand') or {})[modality]
  return known ~= nil and known['AET'] == metadata['RemoteAET']
end

-- hand makes Orthanc's job. SendToPeer and SendToModality would put everything that one callback sends into one job, in which a
-- destination that hangs holds up the others, and do nothing at all in OnUpdatedInstance.
local function hand(instance, destination)
  local kind, name = string.match(destination, '^(%a+):(.+)$')
  local body = DumpJson({ Resources = { instance }, Asynchronous = true }, true)
  return RestApiPost((kind == 'peer' and '/peers/' or '/modalities/') .. name .. '/store', body) ~= nil
end

-- route sends one X-ray to where its class goes and it was not sent yet.
local function route(instance)
  local metadata = get('/instances/' .. instance .. '/metadata?expand')
  if metadata == nil then
    return
  end
  local class = metadata['BodyPart'] or metadata[settings.metadata_body_part]
  local text = metadata['BodyPartResult'] or metadata[settings.metadata_result]
  if class == nil or text == nil or routes[class] == nil then
    return
  end
  local result = ParseJson(text)
  -- The router writes one after the other: as long as they do not fit together, the second is on its way.
  if type(result) ~= 'table' or result['class'] ~= class or result['review'] ~= false then
    return
  end
  if settings.copies ~= 'true' and (metadata['ModifiedFrom'] ~= nil or metadata['AnonymizedFrom'] ~= nil) then
    return
  end
  local memory = metadata['BodyPartRouted'] or metadata[settings.metadata_routed] or ''
  local before = {}
  for destination in string.gmatch(memory, '[^,]+') do
    before[destination] = true
  end
  local sent = {}
  for _, destination in ipairs(routes[class]) do
    if not before[destination] and not cameFrom(metadata, destination) then
      if hand(instance, destination) then
        before[destination] = true
        table.insert(sent, destination)
      else
        say(instance .. ' (' .. class .. ') could not be handed over for ' .. destination)
      end
    end
  end
  if #sent > 0 then
    memory = (memory == '' and '' or memory .. ',') .. table.concat(sent, ',')
    -- After the job is made: a crash in between sends twice, the other way round it would send never.
    if RestApiPut('/instances/' .. instance .. '/metadata/' .. settings.metadata_routed, memory) == nil then
      say(instance .. ' was sent, and that could not be noted: it can be sent again')
    end
    say(instance .. ' (' .. class .. ') goes to ' .. table.concat(sent, ', '))
  end
end

-- ofSeries routes the X-rays of one series, where its modality is one of X-rays.
local function ofSeries(id)
  local series = get('/series/' .. id)
  if series ~= nil and wanted[(series['MainDicomTags'] or {})['Modality'] or ''] then
    for _, instance in ipairs(series['Instances']) do
      route(instance)
    end
  end
end

local function ofStudy(id)
  local study = get('/studies/' .. id)
  for _, series in ipairs((study or {})['Series'] or {}) do
    ofSeries(series)
  end
end

-- late routes an X-ray whose result has come after its study (or series) had become stable. The one that comes before waits for that.
local function late(id)
  if settings.level ~= 'instance' then
    local instance = get('/instances/' .. id)
    local above = instance and get('/series/' .. instance['ParentSeries'])
    if above ~= nil and settings.level == 'study' then
      above = get('/studies/' .. above['ParentStudy'])
    end
    if above == nil or not above['IsStable'] then
      return
    end
  end
  route(id)
end

local function guarded(what, callback, ...)
  local ok, message = pcall(callback, ...)
  if not ok then
    say('error in ' .. what .. ': ' .. tostring(message))
  end
end

-- chained returns a callback that calls ours, where there is one, and then the one that was defined before.
local function chained(name, ours)
  local previous = _G[name]
  return function(...)
    if ours ~= nil then
      guarded('route-by-bodypart.lua', ours, ...)
    end
    if previous ~= nil then
      guarded('the ' .. name .. ' that was defined before it', previous, ...)
    end
  end
end

if settings.level == 'study' then
  OnStableStudy = chained('OnStableStudy', ofStudy)
elseif settings.level == 'series' then
  OnStableSeries = chained('OnStableSeries', ofSeries)
end
OnUpdatedInstance = chained('OnUpdatedInstance', late)

local n = 0
for _ in pairs(routes) do
  n = n + 1
end
say(n .. ' classes have destinations; X-rays are sent by the ' .. settings.level)
